"""torch.nn.LSTM's list of its weights, for code that hands weights over in it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNBase


class FlatWeights(RNNBase):
    """``_flat_weights`` as torch.nn.LSTM has it, made when it is first asked for.

    There the list is what computes, until a weight is another one under its name than when the list was made; then it
    is made anew. Meta-learning and adapters assign it, or its elements. A module whose list nobody has asked for has
    none, so that nothing has to be compared in a call, and nothing that was computed (a parametrized weight) is kept.
    """

    # Under a name of its own: Dynamo of torch 2.10 takes vars(self)["_flat_weights"] for the property. None where only
    # torch.nn.LSTM's is there, under its name: somebody has given the module another class.
    _flat_weight_list: list[Any] | None = None
    # Weak, to what had the weights' names when the list was made; None for nothing. Empty while there is no list.
    _flat_weight_refs: list[Any]

    @property
    def _flat_weights(self) -> list[Any]:
        if not self._flat_weight_refs:
            self._flat_weight_list = self._remember()
        elif self._flat_weight_list is None:
            self._flat_weight_list = vars(self).pop("_flat_weights")
        return self._flat_weight_list

    @_flat_weights.setter
    def _flat_weights(self, weights: list[Any]) -> None:
        if not self._flat_weight_refs:
            self._remember()
        self._flat_weight_list = weights

    def _named(self) -> list[Any]:
        own = self._parameters  # where __getattr__ looks in the end
        return [own[name] if name in own else getattr(self, name, None) for name in self._flat_weights_names]

    def _remember(self) -> list[Any]:
        named = self._named()
        self._flat_weight_refs = [None if weight is None else weakref.ref(weight) for weight in named]
        return named

    def _init_flat_weights(self) -> None:
        self._flat_weight_list = []
        self._flat_weight_refs = []

    def _weights_have_changed(self) -> bool:
        return self._are_new(self._named())

    def _are_new(self, named: list[Any]) -> bool:
        for weight, ref in zip(named, self._flat_weight_refs):
            if weight is not None and (ref is None or ref() is not weight):
                return True
        return False

    def _update_flat_weights(self) -> None:
        if self._flat_weight_refs:
            self._handed_weights()

    def _handed_weights(self) -> list[Tensor]:
        """What computes where there is a list: it, or the weights that have changed under their names."""
        weights, named = self._flat_weights, self._named()
        if self._are_new(named):
            self._init_flat_weights()
            weights = named
        for weight, name in zip(weights, self._flat_weights_names):
            if weight is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return weights

    def list_from_torch(self) -> None:
        """Of a converted module: lets go of torch.nn.LSTM's list if it holds what has the weights' names."""
        own = vars(self) | self._parameters
        if all(own.get(name) is weight for name, weight in zip(self._flat_weights_names, self._flat_weights)):
            self._init_flat_weights()

    def list_for_torch(self) -> None:
        """Makes the list that torch.nn.LSTM wants. A computed weight is not computed for it: any other tensor does."""
        if not self._flat_weight_refs:
            own = vars(self) | self._parameters
            weights = [own.get(name, torch.empty(0)) for name in self._flat_weights_names]
            self._flat_weight_list, self._flat_weight_refs = weights, [weakref.ref(weight) for weight in weights]
        vars(self)["_flat_weights"] = self._flat_weights
        del self._flat_weight_list

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_flat_weights", "_flat_weight_list"):
            state.pop(name, None)
        return state

    def __setstate__(self, d: dict[str, Any]) -> None:
        self._flat_weight_refs = []
        super().__setstate__(d)
        self._init_flat_weights()
