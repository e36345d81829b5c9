"""What each process of test_distributed.py runs, by torchrun: training spread over processes is training in one."""

from __future__ import annotations

import copy
import gc
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_fused

STEPS, ROWS_PER_PROCESS, DOUBLE = 5, 3, torch.float64


class Tagger(nn.Module):
    """Ragged input, a projection, a frozen weight and loops: whatever could differ between the processes."""

    def __init__(self, cls: type[nn.Module]) -> None:
        super().__init__()
        self.encoder = cls(3, 5, num_layers=2, bidirectional=True, proj_size=4, dtype=DOUBLE)
        self.lstm = cls(8, 5, batch_first=True, dtype=DOUBLE)
        # Of so many units that steps share a node (lstm_fused/cell_loop.py, one_step.py).
        self.decoder = cls(5, 256, dtype=DOUBLE)
        self.cell = (lstm_fused.LSTMCell if cls is lstm_fused.LSTM else nn.LSTMCell)(5, 256, dtype=DOUBLE)
        self.head = nn.Linear(5, 2, dtype=DOUBLE)
        self.head.bias.requires_grad_(False)

    def forward(self, input: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = ragged(self.encoder, input, lengths).transpose(0, 1)
        outputs, state, decoded = [], None, None
        for step in ragged(self.lstm, x, lengths).unbind(1):
            state = self.cell(step, state)
            output, decoded = self.decoder(step.unsqueeze(0), decoded)
            outputs.append(self.head(step) + 0.1 * state[0][:, :2] + 0.1 * output[0, :, :2])
        return torch.stack(outputs, 1)


def ragged(lstm: nn.Module, input: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Rows that end early, as each library wants them."""
    if isinstance(lstm, lstm_fused.LSTM):
        return lstm(input, lengths=lengths)[0]
    first = lstm.batch_first
    packed = pack_padded_sequence(input, lengths, batch_first=first, enforce_sorted=False)
    return pad_packed_sequence(lstm(packed)[0], batch_first=first, total_length=input.size(1 if first else 0))[0]


def train(model: nn.Module, rows: slice, device: str) -> list[torch.Tensor]:
    """The losses of a few steps, averaged over all processes; every row counts alike."""
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.05)
    losses = []
    for _ in range(STEPS):
        input = torch.randn(6, 2 * ROWS_PER_PROCESS, 3, dtype=DOUBLE, generator=generator)[:, rows].to(device)
        lengths = torch.randint(1, 7, (2 * ROWS_PER_PROCESS,), generator=generator)[rows]
        loss = model(input, lengths).square().sum((1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = loss.detach().clone()
        dist.all_reduce(average)
        losses.append(average / dist.get_world_size())
    return losses


def compare(kind: str, device: str, library: str) -> None:
    """Losses, weights and checkpoints of the processes together are those of one."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.manual_seed(0)
    alone = Tagger(lstm_fused.LSTM if library == "lstm_fused" else nn.LSTM).to(device)
    together = copy.deepcopy(alone)
    start = copy.deepcopy(alone.state_dict())
    everything, own = slice(None), slice(rank * ROWS_PER_PROCESS, (rank + 1) * ROWS_PER_PROCESS)
    exact = train(alone, everything, device)

    if kind == "ddp":
        model: nn.Module = DistributedDataParallel(together)
    else:
        mesh = init_device_mesh(device, (world,))
        for part in (together.encoder, together.lstm, together.cell, together.decoder):
            fully_shard(part, mesh=mesh)
        model = fully_shard(together, mesh=mesh)
        assert all(type(p).__name__ == "DTensor" for p in model.parameters())
    losses = train(model, own, device)
    torch.testing.assert_close(losses, exact)
    assert losses[-1] < losses[0]

    options = checkpoint.StateDictOptions(full_state_dict=True)
    state = checkpoint.get_model_state_dict(model, options=options)
    assert list(state) == list(start)  # torch takes off what the wrappers put before the names
    torch.testing.assert_close(state, dict(alone.state_dict()))
    checkpoint.set_model_state_dict(model, dict(start), options=options)  # it changes the mapping
    again = checkpoint.get_model_state_dict(model, options=options)
    torch.testing.assert_close(again, dict(start), rtol=0, atol=0)
    torch.testing.assert_close(train(model, own, device), exact)
    plain = nn.LSTM(8, 5, batch_first=True, dtype=DOUBLE)
    plain.load_state_dict({name[len("lstm.") :]: t for name, t in state.items() if name.startswith("lstm.")})


def main(device: str, library: str) -> None:
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    for kind in ("ddp", "fsdp"):
        compare(kind, device, library)
        print(f"process {dist.get_rank()} of {dist.get_world_size()}: {kind} on {device} as in one process")
    # The models go before the group does: as its last owner, DistributedDataParallel or FSDP2, whose cycles otherwise
    # live until the interpreter ends, would end gloo's threads while they may be waiting for the interpreter's lock.
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
