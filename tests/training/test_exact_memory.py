"""Check that a step which runs out of memory is repeated, smaller, as the same step."""

import pytest
import torch
from test_exact import BATCH, make_objective, reach_through, relative_error, run
from torch import nn

from vcrast.training.exact import micro_batches


class FullMemory(nn.Module):
    """An encoder that runs out of memory for more than `fits` views at once, in the forward or when recomputed."""

    def __init__(self, encoder, fits, fail_in_backward=False):
        super().__init__()
        self.encoder, self.fits, self.fail_in_backward = encoder, fits, fail_in_backward
        self.register_buffer("calls", torch.zeros(()))

    __getattr__ = reach_through

    def forward(self, fbank, **options):
        self.calls += 1
        tokens = self.encoder(fbank, **options)
        if len(fbank) <= self.fits:
            return tokens
        if self.fail_in_backward:
            tokens.values.register_hook(out_of_memory)
            return tokens
        return out_of_memory(None)


def out_of_memory(_):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("fail_in_backward", [False, True])
def test_out_of_memory_halves_and_repeats_the_same_step(fail_in_backward, caplog):
    objective = make_objective()
    expected, reference, _ = run(objective, 3)
    objective.objective.encoder = FullMemory(objective.objective.encoder, 2 * 4, fail_in_backward)
    found, outcome, buffers = run(objective, None)
    assert outcome.split == (3, 1)  # 11, 6, 3
    assert "micro_batch_size=6" in caplog.text
    assert "micro_batch_size=3" in caplog.text
    found = {name.replace("encoder.encoder", "encoder"): gradient for name, gradient in found.items()}
    assert relative_error(found, expected) < 1e-12
    torch.testing.assert_close(outcome.loss, reference.loss)
    # Both failed tries were undone: only the counts of the last one are left, BatchNorm's among them.
    assert buffers["objective.projector.layers.1.num_batches_tracked"] == 2
    assert buffers["objective.encoder.calls"] == 2 * len(micro_batches(BATCH, 3)) - 1


def test_out_of_memory_with_one_clip_says_what_to_do():
    objective = make_objective()
    objective.objective.encoder = FullMemory(objective.objective.encoder, 0)
    with pytest.raises(torch.OutOfMemoryError, match="smaller model"):
        run(objective, None)


def test_other_errors_are_not_taken_for_memory():
    objective = make_objective()
    objective.objective.encoder.forward = lambda *_, **__: torch.zeros(1, 2) @ torch.zeros(3, 4)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(objective, None)
