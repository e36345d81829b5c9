"""convert() on models as they are published, at small sizes: what their checkpoints say is said by ours.

Written from the papers and documentation of what they stand for, with their names of parameters: the tests load one
checkpoint before and after the conversion, and hold outputs and gradients to the rule of numerics.py.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from cases import Case
from numerics import Errors
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused


class SpeechEncoder(nn.Module):
    """A recurrent encoder of end-to-end speech recognition (VGG-BLSTMP, as in ESPnet): layers of BLSTM with their own
    projection and subsampling of time between them, packed by length."""

    def __init__(self, features: int = 12, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.subsample = [1, 2, 1]
        for n in range(layers):
            size = features if n == 0 else width
            self.add_module(f"birnn{n}", nn.LSTM(size, width, bidirectional=True, batch_first=True))
            self.add_module(f"bt{n}", nn.Linear(2 * width, width))

    def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
        x = self.conv(input.unsqueeze(1)).relu()
        x, lengths = x.transpose(1, 2).flatten(2), (lengths + 1) // 2
        for n, step in enumerate(self.subsample):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            lstm = getattr(self, f"birnn{n}")
            lstm.flatten_parameters()
            x, lengths = pad_packed_sequence(lstm(packed)[0], batch_first=True)
            x, lengths = x[:, ::step], (lengths + step - 1) // step
            x = torch.tanh(getattr(self, f"bt{n}")(x))
        return x

    @staticmethod
    def inputs() -> tuple[Tensor, ...]:
        return torch.randn(3, 20, 12), torch.tensor([20, 13, 7])


class Transducer(nn.Module):
    """An RNN transducer (Graves 2012; Sak et al. 2014 for the projection): a stack with proj_size over sound, an LSTM
    over the labels so far that is also called step by step with its state, and a joint network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(8, 20, num_layers=3, proj_size=10, batch_first=True, dropout=0.1)
        self.embedding = nn.Embedding(7, 6)
        self.predictor = nn.LSTM(6, 10, num_layers=2, batch_first=True)
        self.joint = nn.Linear(10, 7)

    def forward(self, sound: Tensor, labels: Tensor) -> Tensor:
        state, predicted = None, []
        for t in range(labels.size(1)):
            step, state = self.predictor(self.embedding(labels[:, t : t + 1]), state)
            predicted.append(step)
        return self.joint(torch.tanh(self.encoder(sound)[0].unsqueeze(2) + torch.cat(predicted, 1).unsqueeze(1)))

    @staticmethod
    def inputs() -> tuple[Tensor, ...]:
        return torch.randn(2, 12, 8), torch.randint(7, (2, 5))


class Tagger(nn.Module):
    """A BiLSTM tagger with characters (Lample et al. 2016): the last states of one LSTM over the letters of each word,
    both directions, join the word's embedding; a packed BiLSTM reads the sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.char_embeddings = nn.Embedding(20, 5, padding_idx=0)
        self.char_lstm = nn.LSTM(5, 6, bidirectional=True)
        self.word_embeddings = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8 + 12, 16, num_layers=2, bidirectional=True, dropout=0.5)
        self.hidden2tag = nn.Linear(32, 5)

    def forward(self, words: Tensor, letters: Tensor, word_lengths: Tensor, lengths: Tensor) -> Tensor:
        flat = pack_padded_sequence(
            self.char_embeddings(letters.flatten(0, 1)).transpose(0, 1), word_lengths.flatten(), enforce_sorted=False
        )
        _, (h_n, _) = self.char_lstm(flat)
        of_words = torch.cat([h_n[0], h_n[1]], -1).unflatten(0, words.shape)
        x = pack_padded_sequence(torch.cat([self.word_embeddings(words), of_words], -1), lengths, enforce_sorted=True)
        return self.hidden2tag(pad_packed_sequence(self.lstm(x)[0])[0])

    @staticmethod
    def inputs() -> tuple[Tensor, ...]:
        words, letters = torch.randint(50, (7, 3)), torch.randint(1, 20, (7, 3, 6))
        return words, letters, torch.randint(1, 7, (7, 3)), torch.tensor([7, 4, 2])


class RecurrentPolicy(nn.Module):
    """An actor and critic with memory (as in recurrent PPO): the rollout runs in one loop over time that multiplies the
    state by 0 where an episode has begun, with one LSTM and, for the critic, an LSTMCell."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 12), nn.Tanh())
        self.lstm = nn.LSTM(12, 16)
        self.lstm_critic = nn.LSTMCell(12, 16)
        self.action_net, self.value_net = nn.Linear(16, 4), nn.Linear(16, 1)
        for name, parameter in self.lstm.named_parameters():
            nn.init.orthogonal_(parameter) if "weight" in name else nn.init.zeros_(parameter)

    def forward(self, observations: Tensor, episode_starts: Tensor) -> Tensor:
        x = self.features(observations)
        h = c = x.new_zeros(1, x.size(1), 16)
        h_v = c_v = x.new_zeros(x.size(1), 16)
        results = []
        for step, start in zip(x, episode_starts, strict=True):
            keep = (1.0 - start).view(1, -1, 1)
            output, (h, c) = self.lstm(step.unsqueeze(0), (keep * h, keep * c))
            h_v, c_v = self.lstm_critic(step, (keep[0] * h_v, keep[0] * c_v))
            results.append(torch.cat([self.action_net(output[0]), self.value_net(h_v)], -1))
        return torch.stack(results)

    @staticmethod
    def inputs() -> tuple[Tensor, ...]:
        return torch.randn(15, 4, 6), (torch.rand(15, 4) < 0.2).float()


class LanguageModel(nn.Module):
    """A word-level language model (as in PyTorch's examples): tied embeddings, dropout, state carried from one piece of
    text to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(30, 16)
        self.rnn = nn.LSTM(16, 16, 2, dropout=0.2)
        self.decoder = nn.Linear(16, 30)
        self.decoder.weight = self.encoder.weight

    def forward(self, *pieces: Tensor) -> Tensor:
        hidden = torch.zeros(2, 3, 16), torch.zeros(2, 3, 16)
        hidden = tuple(h.to(self.encoder.weight) for h in hidden)
        outputs = []
        for piece in pieces:
            hidden = tuple(h.detach() for h in hidden)
            output, hidden = self.rnn(self.drop(self.encoder(piece)), hidden)
            outputs.append(self.decoder(self.drop(output)))
        return torch.cat(outputs)

    @staticmethod
    def inputs() -> tuple[Tensor, ...]:
        return tuple(torch.randint(30, (8, 3)) for _ in range(3))


MODELS: list[type] = [SpeechEncoder, Transducer, Tagger, RecurrentPolicy, LanguageModel]
DRAWS = 8  # tensors of a small model: a mean over several draws is not luck


def results_of(model: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> dict[str, Tensor]:
    """The output, and the gradient of every parameter."""
    torch.manual_seed(seed)  # dropout
    output = model(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view_as(output)
    gradients = torch.autograd.grad((output * weights).sum(), list(model.parameters()))
    return {"output": output.detach()} | dict(zip(dict(model.named_parameters()), gradients, strict=True))


def to(value: tuple[Tensor, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    return tuple(t.to(device, dtype if t.is_floating_point() else None) for t in value)


def on(device: str, model: type, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    moved = to(inputs, dtype, device)
    return (moved[0], inputs[1]) if model is SpeechEncoder else (*moved[:2], *inputs[2:]) if model is Tagger else moved


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_converted_models(model: type, training: bool, device: str):
    """One checkpoint, loaded into the model before and after the conversion: errors within the rule of torch's own."""
    if training and device == "cuda" and model in (Transducer, Tagger, LanguageModel):
        training = False  # cuDNN draws dropout of its own
    errors: dict[str, tuple[Errors, Errors]] = {}
    case = Case(seq_len=20, batch=3)  # float32, many steps
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        theirs = model().to(device).train(training)
        checkpoint = io.BytesIO()
        torch.save(theirs.state_dict(), checkpoint)
        checkpoint.seek(0)
        torch.manual_seed(100 + draw)
        ours = lstm_fused.convert(model().to(device).train(training))
        assert not any(ours.load_state_dict(torch.load(checkpoint)))
        kinds = {type(part) for part in ours.modules()}
        assert lstm_fused.LSTM in kinds and not kinds & {nn.LSTM, nn.LSTMCell}
        inputs = model.inputs()
        exact = results_of(copy.deepcopy(theirs).cpu().double(), to(inputs, torch.float64, "cpu"), draw)
        given = on(device, model, inputs, torch.float32)
        actual, plain = results_of(ours, given, draw), results_of(theirs, given, draw)
        for name, value in exact.items():
            mine, torchs = errors.setdefault(name, (Errors(case), Errors(case)))
            mine.add(actual[name], value.numpy())
            torchs.add(plain[name], value.numpy())
    for name, (mine, torchs) in errors.items():
        bounds = torchs.norms()
        assert all(bound < 100 for bound in bounds.values())  # both dtypes drew the same dropout
        for norm, error in mine.norms().items():
            assert error <= 2 * bounds[norm] + 0.5, (
                f"{norm} error of {name}: {error:.2f}, torch's {bounds[norm]:.2f} eps"
            )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_converted_checkpoints_go_back(model: type):
    """Trained after the conversion, saved, and loaded where lstm_fused is not known."""
    ours = lstm_fused.convert(model())
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    inputs = model.inputs()
    ours(*inputs).square().mean().backward()
    optimizer.step()
    checkpoint = io.BytesIO()
    torch.save(ours.state_dict(), checkpoint)
    checkpoint.seek(0)
    theirs = model()
    assert not any(theirs.load_state_dict(torch.load(checkpoint)))
    torch.testing.assert_close(theirs.eval()(*inputs), ours.eval()(*inputs))
    torch.testing.assert_close(lstm_fused.revert(ours)(*inputs), theirs(*inputs), rtol=0, atol=0)


def test_a_policy_without_its_loop():
    """What the masking loop of a policy computes is one call with `reset`."""
    policy = lstm_fused.convert(RecurrentPolicy())
    observations, starts = policy.inputs()
    actions = policy(observations, starts)[..., :4]
    output = policy.lstm(policy.features(observations), reset=starts.bool())[0]
    torch.testing.assert_close(policy.action_net(output), actions)
