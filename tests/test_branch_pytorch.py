"""A branched network is an nn.Module like any other: whatever PyTorch does with those, it does with this."""

import copy
import functools
import io
import pickle

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

from coterie import LossTerms, branch
from coterie.losses import one
from coterie.networks import build

# Raw parameters of a module without an initialiser start as copies, and branch() says so.
pytestmark = pytest.mark.filterwarnings("ignore:these parameters have no initialiser")

LABELS = torch.tensor([0, 3, 5, 1])


def tiny_vit(**options):
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=6, img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2, **options
    )


def tiny_mobilenet():
    """timm's MobileNetV3 with one block of each kind."""
    blocks = (
        ["ds_r1_k3_s2_e1_c8_se0.25_nre"],
        ["ir_r1_k3_s2_e3_c12_nre"],
        ["ir_r1_k5_s2_e3_c16_se0.25"],
        ["cn_r1_k1_s1_c32"],
    )
    return MobileNetV3(decode_arch_def(list(blocks)), num_classes=6, stem_size=8, num_features=48)


MODELS = {"cnn": lambda: build("resnet8", 6), "vit": tiny_vit, "mobilenet": tiny_mobilenet}
CUTS = {"cnn": "layer3", "vit": "blocks.2", "mobilenet": "blocks.2"}
every_network = pytest.mark.parametrize("name", MODELS)


def images(count=4, seed=1):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@functools.cache
def original(name):
    torch.manual_seed(0)
    return branch(MODELS[name](), 2, at=CUTS[name], example=images())


def grown(name):
    """A network of two branches in training mode."""
    return copy.deepcopy(original(name)).train()


def gradients(net):
    return [parameter.grad for parameter in net.parameters()]


def loss_of(net, x=None):
    return one(net(images() if x is None else x), LABELS).total


# torch.compile


@every_network
def test_compiled_it_computes_the_same_after_every_change_of_mode(name):
    torch._dynamo.reset()
    net, twin = grown(name), grown(name)
    compiled = torch.compile(net, backend="aot_eager" if name == "cnn" else "eager", fullgraph=True)
    for mode in (True, False, True):
        net.train(mode)
        twin.train(mode)
        net.zero_grad()
        twin.zero_grad()
        got, expected = compiled(images()), twin(images())
        torch.testing.assert_close(got.logits, expected.logits)
        torch.testing.assert_close(got.ensemble, expected.ensemble)
        one(got, LABELS).total.backward()
        one(expected, LABELS).total.backward()
        torch.testing.assert_close(gradients(net), gradients(twin))


def test_compiled_in_place_it_saves_and_copies_under_the_same_names():
    torch._dynamo.reset()
    net, twin = grown("cnn"), grown("cnn")
    net.compile(backend="eager")
    torch.testing.assert_close(net(images()).logits, twin(images()).logits)
    assert list(net.state_dict()) == list(twin.state_dict())
    assert not any("_orig_mod" in key for key in net.target.state_dict())
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(again.eval()(images()).ensemble, net.eval()(images()).ensemble)


def test_compiled_it_sees_that_a_part_of_the_trunk_is_frozen():
    """A frozen block drops nothing: the compiled code must not take its mode from the network's."""
    torch._dynamo.reset()
    net = branch(tiny_vit(attn_drop_rate=0.5), 2, at="blocks.2", example=images()).train()
    compiled = torch.compile(net, backend="eager")
    for frozen in (True, False):
        net.target.blocks[0].train(not frozen)
        torch.manual_seed(0)
        expected = net(images()).logits
        torch.manual_seed(0)
        assert torch.equal(compiled(images()).logits, expected)


# Precision and layout


@every_network
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_it_changes_its_precision_and_back(name, dtype):
    net = grown(name).eval()
    before = net(images())
    net.to(dtype)
    assert {tensor.dtype for tensor in net.state_dict().values() if tensor.is_floating_point()} == {dtype}
    output = net(images().to(dtype))
    assert output.logits.dtype == output.weights.dtype == (dtype if dtype == torch.float64 else torch.float32)
    expected = net.target(images().to(dtype)).to(output.logits.dtype)
    if dtype == torch.float64:
        torch.testing.assert_close(output.logits[:, 0], expected)
    else:
        assert torch.equal(output.logits[:, 0], expected)
    torch.testing.assert_close(output.logits.float(), before.logits, atol=0.05, rtol=0.05)
    after = net.float()(images())
    torch.testing.assert_close(after.logits, before.logits, atol=0.05, rtol=0.05)
    if dtype == torch.float64:  # which holds every float32
        assert torch.equal(after.logits, before.logits)


@every_network
def test_channels_last_changes_the_layout_alone(name):
    net, twin = grown(name).double(), grown(name).double()
    net.to(memory_format=torch.channels_last)
    got = net(images().double().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got.logits, twin(images().double()).logits)
    assert any(
        weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        for weight in net.branches.parameters()
    ) == (name != "vit")


@every_network
def test_under_autocast_the_outputs_and_the_loss_are_float32(name):
    net = grown(name)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(images())
        loss = one(output, LABELS).total
    assert output.logits.dtype == output.weights.dtype == output.ensemble.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(output.weights.sum(1), torch.ones(4))
    loss.backward()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(net))


# Saving and loading


@every_network
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_loads_into_a_network_of_another_seed(name, assign):
    net = grown(name)
    net(images())  # so that statistics and counters are no longer what they start as
    torch.manual_seed(99)
    other = branch(MODELS[name](), 2, at=CUTS[name], example=images())
    model = other.target
    assert not torch.equal(other.eval()(images()).ensemble, net.eval()(images()).ensemble)
    other.load_state_dict(copy.deepcopy(net.state_dict()), assign=assign)
    assert torch.equal(other(images()).ensemble, net(images()).ensemble)
    assert other.target is model
    assert torch.equal(model(images()), net(images()).logits[:, 0])
    loss_of(other.train()).backward()
    assert all(gradient is not None for gradient in gradients(other))


@every_network
def test_the_target_is_pickled_and_saved_without_coterie(name):
    net = grown(name)
    loss_of(net).backward()
    torch.optim.SGD(net.parameters(), 0.01).step()
    expected = net.eval()(images()).logits[:, 0]
    pickled = pickle.dumps(net.target)
    assert b"coterie" not in pickled or name == "cnn"  # that one's own class is coterie's
    assert torch.equal(pickle.loads(pickled)(images()), expected)
    file = io.BytesIO()
    torch.save(net.target.state_dict(), file)
    file.seek(0)
    plain = MODELS[name]()
    plain.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(plain.eval()(images()), expected)


@every_network
def test_the_whole_network_goes_through_safetensors(name, tmp_path):
    net = grown(name)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")  # refuses tensors that share memory
    torch.manual_seed(99)
    other = branch(MODELS[name](), 2, at=CUTS[name], example=images())
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "net.safetensors"))
    assert torch.equal(other.eval()(images()).ensemble, net.eval()(images()).ensemble)


@every_network
def test_a_deep_copy_shares_nothing(name):
    net = grown(name)
    twin = copy.deepcopy(net)
    before = net.eval()(images()).ensemble
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(net(images()).ensemble, before)
    assert not torch.equal(twin.eval()(images()).ensemble, before)
    assert twin.target is not net.target


# Export


class EnsembleLogits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).ensemble


@every_network
def test_torch_export_takes_it_whole_with_any_batch_size(name):
    net = grown(name).eval()
    dynamic = (({0: torch.export.Dim.DYNAMIC},),)
    exported = torch.export.export(net, (images(),), dynamic_shapes=dynamic).module()
    for count in (1, 2, 5):
        got, expected = exported(images(count)), net(images(count))
        torch.testing.assert_close(got.logits, expected.logits)
        torch.testing.assert_close(got.ensemble, expected.ensemble)


def test_torch_export_takes_a_network_that_was_just_unpickled():
    net = grown("cnn").eval()
    again = pickle.loads(pickle.dumps(net))
    exported = torch.export.export(again, (images(),)).module()
    torch.testing.assert_close(exported(images()).ensemble, net(images()).ensemble)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
@pytest.mark.parametrize(
    ("name", "what"), [("cnn", "target"), ("cnn", "ensemble"), ("vit", "ensemble"), ("mobilenet", "target")]
)
def test_onnx_runtime_computes_the_same_at_any_batch_size(name, what):
    net = grown(name).eval()
    module = net.target if what == "target" else EnsembleLogits(net)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(module, (images(2),), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3, 8):
        x = images(count)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(got, module(x).detach().numpy(), atol=1e-4, rtol=1e-4)


# Training


@every_network
def test_accumulated_gradients_are_the_whole_batchs(name):
    net = grown(name).double().eval()  # in training mode batch norm would make halves differ from the whole
    x = images().double()
    loss_of(net, x).backward()
    whole = [gradient.clone() for gradient in gradients(net)]
    net.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (one(net(x[half]), LABELS[half]).total / 2).backward()
    torch.testing.assert_close(gradients(net), whole)


@every_network
def test_a_moving_average_of_it_is_a_network_too(name):
    net = grown(name)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=False)
    average.update_parameters(net)  # the first one copies
    first = [parameter.detach().clone() for parameter in net.parameters()]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.4)
    average.update_parameters(net)
    for averaged, before in zip(average.parameters(), first, strict=True):
        torch.testing.assert_close(averaged, before + 0.1)
    average.eval()
    expected = average.module.target(images())
    assert torch.equal(average(images()).logits[:, 0], expected)


def small_vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=6, img_size=32, patch_size=8, depth=4)


CHECKPOINTED = {
    "inside a stage": (
        lambda: timm.create_model("convnext_atto", num_classes=6, depths=(2, 2, 2, 2), dims=(8, 12, 16, 24)),
        "stages.3",
    ),
    "blocks of the root": (small_vit, "blocks.2"),
    "stages of the root": (lambda: timm.create_model("resnet10t", num_classes=6), "layer4"),
}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("where", CHECKPOINTED)
def test_activation_checkpointing_goes_on_in_a_branched_network(where, before):
    """The gradients are the same, and less is kept for them."""

    def step(net):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x
        ):
            loss = loss_of(net)
        loss.backward()
        return sum(kept), gradients(net)

    make, at = CHECKPOINTED[where]
    model = make()
    twin = copy.deepcopy(model)
    if before:
        model.set_grad_checkpointing()
    torch.manual_seed(0)
    net = branch(model, 2, at=at, example=images())
    torch.manual_seed(0)
    twin = branch(twin, 2, at=at, example=images())
    twin.load_state_dict(net.state_dict())
    net.target.set_grad_checkpointing()
    (kept, got), (everything, expected) = step(net), step(twin)
    torch.testing.assert_close(got, expected)
    assert kept < 0.7 * everything


@every_network
def test_functional_call_runs_it_with_other_weights(name):
    net = grown(name).eval()
    weights = {key: value.detach() * 1.1 for key, value in net.named_parameters()}
    got = torch.func.functional_call(net, weights, (images(),))
    net.load_state_dict(weights, strict=False)
    assert torch.equal(got.ensemble, net(images()).ensemble)


@every_network
def test_hooks_of_torchs_own_layers_fire_as_they_do_in_the_model(name):
    """The model's own forward is traced, so a hook on the whole model is called by the model alone."""
    net = grown(name)
    layers = [path for path, module in net.target.named_modules() if type(module).__module__.startswith("torch.nn.")]
    layers = ["", *(path for path in layers if not any(net.target.get_submodule(path).children()))]
    fired: list[str] = []
    for path in layers:
        net.target.get_submodule(path).register_forward_hook(lambda *_, path=path: fired.append(path))
    net.target(images())
    *expected, last = fired
    assert last == ""
    fired.clear()
    net(images())
    assert fired == expected


def test_torch_looks_into_what_it_returns():
    """Otherwise DistributedDataParallel with a static graph would not add up gradients, and say nothing."""
    output = grown("cnn")(images())
    leaves = pytree.tree_leaves((output, LossTerms({"a": output.logits.sum()})))
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves if leaf is not None)
    assert type(pytree.tree_map(lambda leaf: 1, output)) is type(output)
