"""The losses as an operator of torch: its contract with autograd, fake tensors and the compiler."""

import time

import pytest

torch = pytest.importorskip("torch")

from diptych.backends.cases import CASES  # noqa: E402
from diptych.backends.torch import contrastive as native  # noqa: E402
from diptych.backends.torch.contrastive import loss as loss_module  # noqa: E402

LOSSES = {"sigmoid_loss": {"logit_scale": 10.0, "logit_bias": -10.0}, "softmax_contrastive_loss": {"logit_scale": 10.0}}


def arguments(dtype=torch.float32, requires_grad=True):
    case = CASES["ragged, balanced"]
    tensors = [torch.from_numpy(array).to(dtype) for array in case.draw()]
    tensors += [torch.tensor(case.logit_scale), torch.tensor(case.logit_bias)]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def loss_of(x, y, t, b):
    return native.sigmoid_loss(x, y, logit_scale=t, logit_bias=b, implementation="blocked")


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [
        ("sigmoid_loss", torch.float32),
        ("sigmoid_loss", torch.bfloat16),
        ("softmax_contrastive_loss", torch.bfloat16),
    ],
)
def test_the_operators_keep_torchs_contract(loss, dtype):
    operators = torch.ops.diptych
    plan = (loss, "blocked", 0, 131)
    x, y, *scalars = arguments(dtype)
    stacked = torch.stack(scalars[: len(LOSSES[loss])]).detach().requires_grad_()
    trained = (x, y, stacked, *plan)
    kept = torch.library.opcheck(operators.contrastive_loss_and_gradients.default, trained)
    assert len(kept) >= 4
    assert set(kept.values()) == {"SUCCESS"}
    kept = torch.library.opcheck(operators.contrastive_loss.default, tuple(a.detach() for a in trained[:3]) + plan)
    assert len(kept) >= 4
    assert set(kept.values()) == {"SUCCESS"}


def test_the_compiler_takes_it_as_one_graph():
    """`aot_eager` traces forward and backward as the compiler does, and needs no C++ compiler."""
    leaves = arguments()
    right = torch.autograd.grad(loss_of(*leaves), leaves)
    compiled = torch.compile(lambda *a: 2.0 * loss_of(*a), fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, 2.0 * b)


def test_the_public_function_compiles_as_one_graph():
    import keras

    if keras.config.backend() != "torch":
        pytest.skip("Keras runs on another backend")
    from diptych import backends

    def public(x, y, t, b):
        return backends.sigmoid_loss(x, y, logit_scale=t, logit_bias=b)

    leaves = arguments()
    compiled = torch.compile(public, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for a, b in zip(got, torch.autograd.grad(loss_of(*leaves), leaves), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    """Under `torch.autocast` products of torch's own would be bfloat16, the positive pairs' too."""
    leaves = arguments(dtype)
    loss = loss_of(*leaves)
    right = [loss, *torch.autograd.grad(loss, leaves)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(*leaves)
        got = [loss, *torch.autograd.grad(loss, leaves)]
        alone = loss_of(*(leaf.detach() for leaf in leaves))
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
    assert torch.equal(alone, right[0])


def test_memory_that_nobody_wrote_is_in_no_result():
    """The first block of a row writes its gradients' sums, the others add to them."""
    x, y, t, b = (leaf.detach() for leaf in arguments())

    def computed():
        plan = ("sigmoid_loss", "blocked", 0, len(x))
        return loss_module.computed(x, y, torch.stack([t, b]), *plan, with_gradients=True, largest=32)

    right = computed()
    torch.use_deterministic_algorithms(True)  # which fills new memory with NaN
    try:
        assert all(torch.equal(one, other) for one, other in zip(computed(), right, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_packages_are_looked_at_once(monkeypatch):
    """Where Triton could run, asking again costs no look at its metadata."""
    asked = []
    monkeypatch.setattr(native, "version", lambda package: asked.append(package) or "3.6.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    native._missing_for_triton.cache_clear()
    device = torch.device("cuda", 0)
    for _ in range(3):
        native.obstacle("triton", device=device, dtype="bfloat16")
    assert len(asked) <= 2
    native._missing_for_triton.cache_clear()


def test_choosing_and_checking_take_some_microseconds():
    """Of the host, before each launch of a small batch; the fastest of many calls, whatever else runs."""
    import keras

    if keras.config.backend() != "torch":
        pytest.skip("Keras runs on another backend")
    from diptych.backends.arguments import checked
    from diptych.backends.implementations import choose_for

    x, y, t, b = arguments(torch.bfloat16, requires_grad=False)

    def taken() -> float:
        start = time.perf_counter()
        checked(x, y, None, False, logit_scale=t, logit_bias=b)
        choose_for(x, None, "sigmoid_loss")
        return time.perf_counter() - start

    assert min(taken() for _ in range(300)) <= 60e-6


def test_without_gradients_the_cheaper_operator_runs():
    called = []
    with torch.profiler.profile() as profile, torch.no_grad():
        loss_of(*arguments())
    called = [event.key for event in profile.key_averages() if event.key.startswith("diptych::")]
    assert called == ["diptych::contrastive_loss"]
    with torch.profiler.profile() as profile:
        loss_of(*arguments())
    called = [event.key for event in profile.key_averages() if event.key.startswith("diptych::")]
    assert "diptych::contrastive_loss_and_gradients" in called
    assert "diptych::contrastive_loss" not in called


@pytest.mark.parametrize("loss", LOSSES)
def test_scratch_does_not_grow_with_the_batch(loss):
    """Twice the pairs a side: four times the pairs, and no larger allocation than the gradients."""

    def largest(rows):
        x = torch.nn.functional.normalize(torch.randn(rows, 16))
        with torch.profiler.profile(profile_memory=True) as profile:
            getattr(native, f"{loss}_and_gradients")(x, x, **LOSSES[loss], implementation="blocked")
        return max(event.cpu_memory_usage for event in profile.events())

    block = 4 * 1024**2
    assert block <= largest(2048) <= block + 1024
    assert block <= largest(4096) <= block + 1024
