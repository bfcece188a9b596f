"""`BlockStack` on blocks that double: three of them make 8 of 1, so they add 7. The head multiplies by ten."""

import gc
import weakref

import pytest
import torch
from torch import nn
from toys import Double, DoubleInPlace, DoubleInTuple, Stack, TenTimes, tokens

from adacache_core import AdaCacheError, Grid, StackLayout
from adacache_core.reuse.layout import Head, probe_positions
from adacache_core.reuse.recording import Recording
from adacache_core.reuse.stack import BlockStack

HEADS = (Head("head"),)
LAYOUT = StackLayout(("blocks",), HEADS)


class ByName(Stack):
    """Blocks in a ModuleDict."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleDict({f"block{index}": block for index, block in enumerate(blocks)})

    def forward(self, x):
        for _, block in self.blocks.items():
            x = block(x)
        return self.head(x)


class ByKey(ByName):
    def forward(self, x):
        for block in self.blocks.values():
            x = block(x)
        return self.head(x)


class Enumerated(Stack):
    def forward(self, x):
        for _, block in enumerate(self.blocks):
            x = block(hidden_states=x)
        return self.head(x)


class InSlices(Stack):
    def forward(self, x):
        for block in self.blocks[:1]:
            x = block(x)
        for block in self.blocks[1:]:
            x = block(x)
        return self.head(x)


class TakesTheSecond(Stack):
    def forward(self, x):
        for block in self.blocks:
            _, x = block(x)
        return self.head(x)


class Nested(nn.Module):
    """Blocks and head below other modules."""

    def __init__(self, *blocks):
        super().__init__()
        self.inner = Stack(*blocks)

    def forward(self, x):
        return self.inner(x)


class TwoContainers(Stack):
    def __init__(self, *blocks):
        super().__init__(*blocks[:1])
        self.more = nn.ModuleList(blocks[1:])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        for block in self.more:
            x = block(x)
        return self.head(x)


class Interleaved(TwoContainers):
    """Blocks of two containers in turn; the last one has no partner and does not run."""

    def forward(self, x):
        for one, other in zip(self.blocks, self.more, strict=False):
            x = other(one(x))
        return self.head(x)


class NothingInTheFirst(TwoContainers):
    def __init__(self, *blocks):
        super().__init__(*blocks)
        self.more = nn.ModuleList(blocks)
        self.blocks = nn.ModuleList()


class ByIndex(Stack):
    def forward(self, x):
        for index in range(len(self.blocks)):
            x = self.blocks[index](x)
        return self.head(x)


class BehindSomethingElse(Stack):
    """The stream is the second of two arguments; in the last container it follows the text in one tensor."""

    def __init__(self, *blocks):
        super().__init__(*blocks[:-1])
        self.more = nn.ModuleList(blocks[-1:])

    def forward(self, x):
        text = torch.ones(1, 3, x.shape[-1])
        for block in self.blocks:
            x = block.with_text(text, x)
        both = torch.cat([text, x], dim=1)
        for block in self.more:
            both = block(both)
        return self.head((both[:, 3:] + 1) * 0.5 - 0.5) * 2


class DoubleWithText(Double):
    def with_text(self, text, hidden_states):
        assert text.shape[1] == 3
        return super().forward(hidden_states)


class BatchInTheMiddle(Stack):
    def forward(self, x):
        x = x.movedim(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.movedim(1, 0))


class WithoutBatch(Stack):
    def forward(self, x):
        (x,) = x
        for block in self.blocks:
            x = block(x)
        return self.head(x)[None]


class OneByOne(Stack):
    """Each sample of the batch goes through the blocks alone."""

    def forward(self, x):
        return torch.cat([super(OneByOne, self).forward(each) for each in x.split(1)])


class Widened(Stack):
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat([x, x], dim=-1))


TWO = StackLayout(("blocks", "more"), HEADS)

KINDS = [
    (Stack, Double, LAYOUT),
    (Stack, DoubleInPlace, LAYOUT),
    (ByName, Double, LAYOUT),
    (ByKey, Double, LAYOUT),
    (Enumerated, Double, LAYOUT),
    (InSlices, Double, LAYOUT),
    (TakesTheSecond, DoubleInTuple, StackLayout(("blocks",), HEADS, output=1)),
    (Nested, Double, StackLayout(("inner.blocks",), (Head("inner.head"),))),
    (TwoContainers, Double, TWO),
    (TwoContainers, DoubleInPlace, TWO),
    (NothingInTheFirst, Double, TWO),
    (ByIndex, Double, StackLayout(("blocks",), HEADS, by_index=True)),
    (ByName, Double, StackLayout(("blocks",), ())),
    (Stack, DoubleInPlace, StackLayout(("blocks",), ())),
    (BehindSomethingElse, DoubleWithText, StackLayout(("blocks", "more"), (), argument=1, method="with_text")),
    (BatchInTheMiddle, Double, StackLayout(("blocks",), (), batch=1)),
    (WithoutBatch, Double, StackLayout(("blocks",), HEADS, batch=None)),
]


def record(stack, model, x, recording=None):
    recording = recording or Recording(want_probe=True)
    with stack.recording(recording):
        out = model(x.clone())
    return recording, out


def reuse(stack, model, x, recording):
    with stack.skipping(recording.residual):
        return model(x.clone())


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1].__name__}")
def stacked(request):
    """A model of three doubling blocks, its blocks, and its stack."""
    model_class, block_class, layout = request.param
    blocks = [block_class() for _ in range(3)]
    model = model_class(*blocks)
    return model, blocks, BlockStack(model, layout)


def test_a_recorded_call_gives_what_the_plain_call_gives(stacked):
    model, _, stack = stacked
    x = tokens(1, -3)
    assert torch.equal(record(stack, model, x)[1], model(x.clone()))


def test_a_recorded_call_leaves_what_the_blocks_added(stacked):
    model, _, stack = stacked
    recording, _ = record(stack, model, tokens(1, -3))
    (residual,) = recording.residual
    assert torch.equal(residual, tokens(7, -21))


def test_a_reused_call_runs_no_block_and_gives_the_head_its_input_plus_the_residual(stacked):
    model, blocks, stack = stacked
    recording, _ = record(stack, model, tokens(1, -3))
    ran = [block.ran for block in blocks]
    assert torch.equal(reuse(stack, model, tokens(2, 5), recording), tokens(90, -160))
    assert [block.ran for block in blocks] == ran == [1, 1, 1]


@pytest.mark.parametrize(
    ("model_class", "layout", "mismatch"),
    [
        (Enumerated, StackLayout(("blocks",), HEADS, stream="x"), "KeyError: 'x'"),  # another name
        (Stack, StackLayout(("blocks",), HEADS, argument=1), "IndexError: "),  # another place
        (Widened, LAYOUT, "RuntimeError: "),  # of another width
        (OneByOne, LAYOUT, "AdaCacheError: they run more than once in a call"),
    ],
)
def test_a_layout_that_is_wrong_about_the_blocks_is_noted_and_the_call_goes_on(model_class, layout, mismatch):
    model, x = model_class(Double(), Double(), Double()), tokens(1, -3).repeat(2, 1, 1)
    stack = BlockStack(model, layout)
    recording, out = record(stack, model, x)
    assert torch.equal(out, model(x))
    assert recording.mismatch.startswith(mismatch)
    assert recording.ran


def test_afterwards_the_model_is_what_it_was(stacked):
    model, blocks, stack = stacked
    before = [(name, id(module)) for name, module in model.named_modules()]
    recording, _ = record(stack, model, tokens(1))
    reuse(stack, model, tokens(1), recording)
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert torch.equal(model(tokens(1)), tokens(80))
    assert [block.ran for block in blocks] == [2, 2, 2]


def test_an_exception_in_a_block_passes_and_leaves_the_model_what_it_was(stacked):
    model, blocks, stack = stacked
    before = [(name, id(module)) for name, module in model.named_modules()]
    hook = blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record(stack, model, tokens(1))
    hook.remove()
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert torch.equal(record(stack, model, tokens(1))[1], tokens(80))


def test_an_exception_in_the_head_of_a_reused_call_leaves_the_model_what_it_was(stacked):
    model, _, stack = stacked
    before = [(name, id(module)) for name, module in model.named_modules()]
    recording, _ = record(stack, model, tokens(1))
    (head,) = (module for module in model.modules() if isinstance(module, TenTimes))
    hook = head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reuse(stack, model, tokens(1), recording)
    hook.remove()
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert torch.equal(model(tokens(1)), tokens(80))


def test_between_calls_the_stack_holds_nothing():
    model = Stack(Double(), Double())
    stack = BlockStack(model, LAYOUT)
    recording, _ = record(stack, model, tokens(1))
    reuse(stack, model, tokens(1), recording)
    held = [weakref.ref(recording), weakref.ref(recording.residual[0]), weakref.ref(recording.probe)]
    del recording
    gc.collect()
    assert [reference() for reference in held] == [None] * 3


def test_two_containers_run_in_turn_are_skipped_together():
    model = Interleaved(Double(), Double())
    stack = BlockStack(model, TWO)
    recording, out = record(stack, model, tokens(1))
    assert torch.equal(out, tokens(40))
    assert torch.equal(reuse(stack, model, tokens(2), recording), tokens(50))


class TwoStreams(nn.Module):
    """Pairs go through the blocks, and each of a pair through its own head, before which tokens may be dropped."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head, self.other_head = TenTimes(), TenTimes()

    def forward(self, x, other):
        for block in self.blocks:
            x, other = block((x, other))
        return self.head(x), self.other_head(other[:, 1:])


class DoublePair(Double):
    def forward(self, pair):
        return tuple(super(DoublePair, self).forward(each) for each in pair)


@pytest.mark.parametrize("batch", [1, 2])
def test_two_streams_each_get_what_the_blocks_added_to_them(batch):
    model = TwoStreams(DoublePair(), DoublePair())
    heads = Head("head"), Head("other_head", takes="last")
    stack = BlockStack(model, StackLayout(("blocks",), heads, streams=2))
    x, other = tokens(1, -3).expand(batch, -1, -1), tokens(9, 5, 7, 6)[..., :1].expand(batch, -1, -1)
    recording = Recording(chunks=batch, want_probe=True)
    with stack.recording(recording):
        recorded = model(x, other)
    assert all(map(torch.equal, recorded, model(x, other)))
    assert recording.probe.shape[-1] == x.shape[-1]
    assert len(recording.residual) == batch
    ran = model.blocks[0].ran
    with stack.skipping(recording.residual):
        reused = model(0 * x, 0 * other)
    assert model.blocks[0].ran == ran
    assert torch.equal(reused[0], 30 * x)
    assert torch.equal(reused[1], 30 * other[:, 1:])


@pytest.mark.parametrize("block_class", [Double, DoubleInPlace])
def test_neither_the_models_input_nor_a_residual_is_written_to(block_class):
    model = Stack(block_class(), block_class())
    stack = BlockStack(model, LAYOUT)
    recording, out = record(stack, model, tokens(1))
    out.zero_()
    x = tokens(2)
    with stack.skipping(recording.residual):
        out = model(x)
    out.zero_()
    assert torch.equal(x, tokens(2))
    assert torch.equal(recording.residual[0], tokens(3))
    assert torch.equal(reuse(stack, model, x, recording), tokens(50))


@pytest.mark.parametrize("mode", ["recording", "skipping"])
@pytest.mark.parametrize("model_class", [Stack, ByName])
def test_while_exchanged_names_length_indexing_and_weights_stay_right(model_class, mode):
    blocks = [Double(), Double(), Double()]
    for index, block in enumerate(blocks):
        block.weight = nn.Parameter(torch.tensor(float(index)))
    model = model_class(*blocks)
    stack = BlockStack(model, LAYOUT)
    names = [name for name, _ in model.blocks.named_modules()]
    weights = list(model.state_dict())
    keys = list(model.blocks._modules)
    with stack.recording(Recording()) if mode == "recording" else stack.skipping([tokens(1)]):
        assert isinstance(model.blocks, nn.ModuleList if model_class is Stack else nn.ModuleDict)
        assert [name for name, _ in model.blocks.named_modules()] == names
        assert [key for key in model.state_dict() if key.startswith("blocks")] == weights
        assert len(model.blocks) == 3
        assert model.get_submodule(f"blocks.{keys[1]}") is blocks[1]
        found = model.blocks[1 if model_class is Stack else keys[1]]
        assert getattr(found, "inner", found) is blocks[1]
        assert found.weight is blocks[1].weight
        assert list(model.blocks.children()) == blocks
        assert next(model.blocks.parameters()) is blocks[0].weight


def test_a_block_that_somebody_exchanges_meanwhile_stays_exchanged():
    """The look-alike shares the container's `_modules`, into which LoRA loaders and offloading write."""
    model = Stack(Double(), Double())
    stack = BlockStack(model, LAYOUT)
    other = Double()
    with stack.skipping([tokens(1)]):
        model.blocks[1] = other
    assert model.blocks[1] is other


def test_attributes_of_blocks_and_head_pass_through_the_wrappers():
    model = Stack(Double(), Double())
    model.head.scale = "ten"
    for block in model.blocks:
        block.kind, block.first, block.probe, block.stack = "doubling", "its own", "its own", "its own"
    stack = BlockStack(model, LAYOUT)
    with stack.recording(Recording(want_probe=True)):
        assert model.head.scale == "ten"
        for block in model.blocks:
            assert block.kind == "doubling"
            assert block.first == block.probe == block.stack == "its own"
            with pytest.raises(AttributeError):
                _ = block.absent


def test_every_iteration_of_a_call_sees_the_same_objects():
    model = Stack(Double(), Double(), Double())
    with BlockStack(model, LAYOUT).recording(Recording()):
        assert list(model.blocks) == list(model.blocks)


@pytest.mark.parametrize(("position", "added"), [(0.0, 1), (0.32, 1), (0.34, 2), (0.5, 2), (0.67, 4), (1.0, 4)])
def test_the_probe_is_what_one_block_added(position, added):
    model = Stack(Double(), Double(), Double())
    recording, _ = record(BlockStack(model, LAYOUT, position), model, tokens(1, 3))
    assert torch.equal(recording.probe, tokens(added))  # one of the two tokens, as there is no frame grid


def test_a_block_that_was_replaced_is_not_the_probe_but_the_nearest_that_runs():
    model = Stack(*(Double() for _ in range(5)))  # they add 1, 2, 4, 8, 16
    stack = BlockStack(model, LAYOUT)
    probes = []
    for replaced_blocks in ((), (2,), (2, 1), (2, 1, 3)):
        recording = Recording(want_probe=True)
        with stack.recording(recording, replaced_blocks):
            model(tokens(1))
        probes.append(float(recording.probe[0, 0, 0]))
    assert probes == [4, 2, 8, 1]


def test_without_being_asked_no_probe_is_taken():
    model = Stack(Double(), Double())
    assert record(BlockStack(model, LAYOUT), model, tokens(1), Recording())[0].probe is None


def test_the_probe_of_a_block_that_works_in_place_is_what_it_added():
    model = Stack(DoubleInPlace(), DoubleInPlace(), DoubleInPlace())
    recording, _ = record(BlockStack(model, LAYOUT), model, tokens(1))
    assert torch.equal(recording.probe, tokens(2))


@pytest.mark.parametrize(("end", "residual"), [("first", tokens(3, 6)), ("last", tokens(9, 12))])
def test_where_tokens_are_cut_off_before_the_head_the_residual_is_that_of_the_rest(end, residual):
    model = Stack(Double(), Double(), keep=(2, end))
    stack = BlockStack(model, StackLayout(("blocks",), (Head("head", end),)))
    recording, _ = record(stack, model, tokens(1, 2, 3, 4))
    assert torch.equal(recording.residual[0], residual)
    reused = reuse(stack, model, tokens(0, 0, 0, 0), recording)
    assert torch.equal(reused, 10 * residual)


def test_a_batch_is_cut_into_chunks_and_put_together_again():
    model = Stack(Double(), Double())
    stack = BlockStack(model, LAYOUT)
    batch = torch.cat([tokens(1), tokens(2), tokens(3), tokens(4)])
    recording, _ = record(stack, model, batch, Recording(chunks=2))
    assert [residual[:, 0, 0].tolist() for residual in recording.residual] == [[3, 6], [9, 12]]
    assert torch.equal(reuse(stack, model, batch, recording), model(batch) * 1.0)


class FloatHead(Stack):
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.float()).to(x.dtype)


def test_the_residual_is_kept_in_the_dtype_of_the_stream():
    model = FloatHead(Double())
    stack = BlockStack(model, LAYOUT)
    recording, _ = record(stack, model, tokens(1).bfloat16())
    assert recording.residual[0].dtype == torch.bfloat16
    assert torch.equal(reuse(stack, model, tokens(2).bfloat16(), recording), tokens(30).bfloat16())


def test_what_reaches_the_head_without_the_blocks_being_asked_for_is_left_as_it_is():
    """Another pack answers in the model's place, before the head."""
    model = Stack(Double())
    stack = BlockStack(model, LAYOUT)
    recording = Recording()
    with stack.recording(recording):
        model.head(tokens(1))
    assert (recording.ran, recording.residual) == (False, [])
    with stack.skipping([tokens(1)]) as skip:
        assert torch.equal(model.head(tokens(5)), tokens(50))
    assert (skip.walked, skip.added) == (False, 0)
    with stack.skipping([tokens(1)]) as skip:
        model(tokens(5))
    assert skip.walked
    assert skip.added > 0


def test_blocks_that_are_run_by_index_are_seen():
    model = Stack(Double())
    stack = BlockStack(model, LAYOUT)
    for way in (stack.recording, stack.counting):
        recording = Recording()
        with way(recording):
            model.head(model.blocks[0](tokens(1)))
        assert recording.ran
        assert len(recording.residual) == (way == stack.recording)


def test_counting_keeps_nothing_of_a_call():
    model = Stack(Double(), Double())
    recording = Recording()
    with BlockStack(model, LAYOUT).counting(recording):
        model(tokens(1))
    assert recording == Recording(ran=True)


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        (StackLayout(("layers",), HEADS), "Stack has no submodule 'layers'"),
        (StackLayout(("blocks",), (Head("norm_out"),)), "Stack has no submodule 'norm_out'"),
        (StackLayout(("inner.blocks",), HEADS), "Stack has no submodule 'inner'"),
        (StackLayout(("empty",), HEADS), "no blocks under empty"),
        (StackLayout(("keep",), HEADS), "Stack has no submodule 'keep'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(layout, complaint):
    model = Stack(Double())
    model.empty = nn.ModuleList()
    with pytest.raises(AdaCacheError, match=complaint):
        BlockStack(model, layout)


GRIDS = [Grid(1, 1), Grid(1, 4), Grid(3, 4), Grid(5, 7), Grid(4, 100), Grid(2, 13, start=11), Grid(21, 30, start=30)]


@pytest.mark.parametrize("stride", [1, 2, 4, 7])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_probe_looks_at_the_same_positions_in_every_frame_of_the_video_only(grid, stride):
    end = grid.start + grid.frames * grid.positions
    picks = probe_positions(end + 5, grid, stride).view(grid.frames, -1)
    within = picks - grid.start - torch.arange(grid.frames)[:, None] * grid.positions
    assert torch.equal(within, within[:1].expand_as(within))
    assert within.min() >= 0
    assert within.max() < grid.positions
    assert len(within[0].unique()) == len(within[0]) == max(1, grid.positions // stride)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.positions >= 4])
def test_by_default_the_probe_is_at_most_a_quarter_of_the_video(grid):
    tokens_of_video = grid.frames * grid.positions
    assert len(probe_positions(grid.start + tokens_of_video, grid, 4)) <= tokens_of_video / 4


def test_the_probe_is_spread_over_rows_and_columns():
    """A stride that divides the width of a frame must not look at a few columns only."""
    width = 32
    picks = probe_positions(width * 20, Grid(1, width * 20), 4)
    per_column = torch.bincount(picks % width, minlength=width)
    assert per_column.min() >= 3
    assert per_column.max() <= 7


def test_without_a_grid_the_whole_stream_counts_as_one_frame():
    assert torch.equal(probe_positions(40, None, 4), probe_positions(40, Grid(1, 40), 4))


def test_a_full_probe_of_a_stream_that_is_all_video_is_the_stream_itself():
    assert probe_positions(12, Grid(3, 4), 1) is None
    assert probe_positions(12, None, 1) is None
    assert probe_positions(12, Grid(2, 4, start=2), 1).tolist() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_a_sample_is_a_copy():
    x = tokens(1, 2, 3, 4)
    for stride in (1, 2):
        sample = Recording(stride=stride).sample(x)
        sample.zero_()
    assert torch.equal(x, tokens(1, 2, 3, 4))


def test_a_grid_that_does_not_fit_the_stream_is_given_up():
    recording = Recording(grid=Grid(3, 5))
    recording.sample(tokens(*range(12)))
    assert recording.grid is None


def test_a_stream_with_separate_frame_and_space_axes_is_sampled_like_a_flat_one():
    x = torch.rand(2, 3, 4, 5, 6)  # batch, frames, rows, columns, width
    recording = Recording(grid=Grid(3, 20))
    assert torch.equal(recording.sample(x), Recording(grid=Grid(3, 20)).sample(x.flatten(1, 3)))
