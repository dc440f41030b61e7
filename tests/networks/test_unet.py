import math

import pytest
import torch
from diffusers import UNet2DModel

from diffexp.models.build import build_model
from diffexp.networks.blocks import Dropout, GroupNorm, SelfAttention, TimeEmbedding, Upsample, attend, double
from diffexp.networks.unet import UNet
from tests.helpers.small import experiment


def small(**changes):
    settings = {
        "base_channels": 16,
        "channel_multipliers": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [4],
        "dropout": 0.0,
        "norm_num_groups": 4,
    }
    return UNet((1, 8, 8), **{**settings, **changes})


def test_the_papers_cifar10_network_has_its_number_of_parameters():
    assert sum(parameter.numel() for parameter in UNet((3, 32, 32)).parameters()) == 35_746_307


def test_starts_at_zero():
    assert small()(torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 999])).abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20), (2, 32, 32)])
def test_any_divisible_size(shape):
    network = UNet(
        shape,
        base_channels=8,
        channel_multipliers=[1, 1, 2],
        attention_resolutions=[],
        norm_num_groups=4,
        num_res_blocks=1,
    )
    torch.nn.init.ones_(network.conv_out.weight)
    output = network(torch.randn(2, *shape), torch.tensor([1, 2]))
    assert output.shape == (2, *shape)
    assert output.std() > 0


def test_an_indivisible_size_is_refused():
    with pytest.raises(ValueError, match=r"image_shape: expected H and W divisible by 4 for 3 levels, got 8×10"):
        UNet((1, 8, 10), channel_multipliers=[1, 1, 1])


def trained(network):
    """Break the zero initialisation, so that every part matters."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return network.eval()


def test_an_image_does_not_depend_on_its_batch():
    network = trained(small())
    x, t = torch.randn(9, 1, 8, 8), torch.arange(9) * 100
    whole = network(x, t)
    for index in range(9):
        torch.testing.assert_close(network(x[index : index + 1], t[index : index + 1])[0], whole[index])


def test_time_and_image_both_matter():
    network = trained(small())
    x = torch.randn(1, 1, 8, 8)
    at = [network(x, torch.tensor([t])) for t in (0, 1, 999)]
    assert (at[0] - at[1]).abs().max() > 1e-5
    assert (at[0] - at[2]).abs().max() > 1e-3


def test_attention_is_softmax_of_scaled_products():
    block = SelfAttention(8, groups=2)
    torch.nn.init.normal_(block.out.weight)
    x = torch.randn(2, 8, 3, 5)
    query, key, value = block.query_key_value(block.norm(x)).flatten(2).chunk(3, dim=1)
    weights = torch.softmax(query.transpose(1, 2) @ key / 8**0.5, dim=-1)
    expected = x + block.out((value @ weights.transpose(1, 2)).view(2, 8, 3, 5))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pixels", "dtype", "tolerance"), [(16, torch.float32, 1e-5), (256, torch.bfloat16, 2e-2)])
def test_written_out_attention_is_the_fused_one(pixels, dtype, tolerance):
    source = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, pixels, 24, generator=source, dtype=torch.float64).unbind()
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    ours = attend(query.to(dtype), key.to(dtype), value.to(dtype))
    assert (ours - exact).norm() < tolerance * exact.norm()


def test_attention_to_many_pixels_keeps_no_matrix_of_all_pairs():
    query = torch.zeros(1, 33 * 33, 8, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        attend(query, query, query)
    assert max(saved) < 33**4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.75])
def test_dropout(dtype, probability):
    torch.manual_seed(0)
    layer, x = Dropout(probability), torch.ones(1_000_003, dtype=dtype, requires_grad=True)
    out = layer(x)
    (share, left) = ((out == 0).double().mean(), out[out != 0].unique())
    assert abs(share - probability) < 5 * (probability * (1 - probability) / len(x)) ** 0.5
    torch.testing.assert_close(left.double(), torch.tensor([1 / (1 - probability)]).double(), rtol=4e-3, atol=0)
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad, out)  # what is dropped has no gradient, what is kept its scale
    neighbours = ((out[1:] == 0) & (out[:-1] == 0)).double().mean()
    assert abs(neighbours - probability**2) < 3e-3
    assert not torch.equal(layer(x), out)
    torch.manual_seed(0)
    assert torch.equal(layer(x), out)
    assert layer.eval()(x) is x


def test_dropout_of_everything_but_a_little_stays_finite():
    assert Dropout(1 - 1e-9)(torch.ones(1000)).isfinite().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsampling_repeats_every_pixel(layout):
    layer = Upsample(4)
    x = torch.randn(2, 4, 3, 5).to(memory_format=layout)
    expected = layer.conv(torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(layer(x), expected)


def test_both_ways_to_double_are_the_same():
    x = torch.randn(2, 4, 3, 5)
    assert torch.equal(double(x), torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_in_the_type_of_its_input_rounds_and_nothing_more(dtype):
    norm = GroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 8, 5, 5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = norm.in_type_of(x)
    assert ours.dtype == dtype
    exact = torch.nn.functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    torch.testing.assert_close(ours.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def loss_and_gradient(network, x, t, *, bf16=False):
    torch.manual_seed(7)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = (network(x, t).float() - x).square().mean()
    loss.backward()
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def test_recomputing_changes_nothing_but_memory():
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1, 20, 300])
    kept, results = [], []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(3)
        network = trained(small(dropout=0.3, gradient_checkpointing=gradient_checkpointing)).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            results.append(loss_and_gradient(network, x, t))
        kept.append(sum(sizes))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert kept[1] < kept[0] / 3


@pytest.mark.slow
def test_bf16_is_the_same_function_to_two_percent():
    network = trained(UNet((1, 16, 16), base_channels=32, channel_multipliers=[1, 2], attention_resolutions=[8]))
    x, t = torch.randn(8, 1, 16, 16), torch.arange(8) * 100
    exact, rounded = loss_and_gradient(network, x, t), loss_and_gradient(network, x, t, bf16=True)
    torch.testing.assert_close(rounded[0], exact[0], rtol=1e-2, atol=0)
    assert (rounded[1] - exact[1]).norm() < 4e-2 * exact[1].norm()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert (network(x, t).float() - network.float()(x, t)).norm() < 2e-2 * network(x, t).float().norm()


def test_time_embedding_is_the_transformers():
    embedding = TimeEmbedding(6, 4)
    rates = [1.0, 10_000**-0.5, 10_000**-1.0]
    t = 37.0
    expected = torch.tensor([f(t * rate) for f in (torch.sin, torch.cos) for rate in torch.tensor(rates)])
    torch.testing.assert_close(embedding.waves(torch.tensor([37]))[0], expected)


def test_equals_diffusers_unet_with_the_same_weights():
    """The same network built by diffusers, its weights copied in the order in which both define them."""
    ours = trained(
        UNet(
            (3, 16, 16),
            base_channels=8,
            channel_multipliers=[1, 2],
            attention_resolutions=[8],
            dropout=0,
            norm_num_groups=4,
        )
    )
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    ).eval()
    copy_weights(ours, theirs)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 800])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), theirs(x, t).sample, rtol=1e-4, atol=1e-5)


def copy_weights(ours, theirs):
    def residual(from_, to):
        for name, other in (
            ("norm1", "norm1"),
            ("conv1", "conv1"),
            ("time", "time_emb_proj"),
            ("norm2", "norm2"),
            ("conv2", "conv2"),
        ):
            getattr(to, other).load_state_dict(getattr(from_, name).state_dict())
        if to.conv_shortcut is not None:
            to.conv_shortcut.load_state_dict(from_.shortcut.state_dict())

    def attention(from_, to):
        to.group_norm.load_state_dict(from_.norm.state_dict())
        weights = from_.query_key_value.weight[:, :, 0, 0].chunk(3)
        biases = from_.query_key_value.bias.chunk(3)
        for layer, weight, bias in zip((to.to_q, to.to_k, to.to_v), weights, biases, strict=True):
            layer.load_state_dict({"weight": weight, "bias": bias})
        to.to_out[0].load_state_dict({"weight": from_.out.weight[:, :, 0, 0], "bias": from_.out.bias})

    theirs.conv_in.load_state_dict(ours.conv_in.state_dict())
    theirs.time_embedding.linear_1.load_state_dict(ours.time.layers[0].state_dict())
    theirs.time_embedding.linear_2.load_state_dict(ours.time.layers[2].state_dict())
    pairs = []
    for block in theirs.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        pairs += [[r, a] for r, a in zip(block.resnets, attentions, strict=True)]
        pairs += [[d] for d in block.downsamplers or []]
    for stage, blocks in zip(ours.down, pairs, strict=True):
        stage_copy(stage, blocks, residual, attention)
    residual(ours.middle[0], theirs.mid_block.resnets[0])
    attention(ours.middle[1], theirs.mid_block.attentions[0])
    residual(ours.middle[2], theirs.mid_block.resnets[1])
    pairs = []
    for block in theirs.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        pairs += [[r, a] for r, a in zip(block.resnets, attentions, strict=True)]
        pairs += [[u] for u in block.upsamplers or []]
    for stage, blocks in zip(ours.up, pairs, strict=True):
        stage_copy(stage, blocks, residual, attention)
    theirs.conv_norm_out.load_state_dict(ours.norm_out.state_dict())
    theirs.conv_out.load_state_dict(ours.conv_out.state_dict())


def stage_copy(stage, blocks, residual, attention):
    for ours, theirs in zip(stage, [block for block in blocks if block is not None], strict=True):
        if hasattr(ours, "conv1"):
            residual(ours, theirs)
        elif isinstance(ours, SelfAttention):
            attention(ours, theirs)
        else:
            theirs.conv.load_state_dict(ours.conv.state_dict())


def layers(network):
    """Every layer with drawn weights, by name, in the order in which the network builds them."""
    kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.Embedding)
    return {name: each for name, each in network.named_modules() if isinstance(each, kinds)}


def ends_a_block(name):
    return name.endswith((".conv2", ".out")) or name == "conv_out"


def in_tensorflows_layout(name, layer):
    """The arrays that the authors' code holds: dense (in, out), convolutions (height, width, in, out)."""
    weight = layer.weight.detach().double()
    parts = weight.chunk(3) if name.endswith("query_key_value") else [weight]
    return [part.permute(2, 3, 1, 0) if part.ndim == 4 else part.T for part in parts]


def test_ddpm_initialization_has_the_standard_deviations_of_the_authors_code():
    """variance_scaling(scale, "fan_avg", "uniform"): TensorFlow takes the fans from the last two axes."""
    torch.manual_seed(0)
    network = UNet((3, 32, 32), classes=10, initialization="ddpm")
    drawn = layers(network)
    assert drawn.pop("label").weight.std().item() == pytest.approx(1, rel=0.05)
    checked = 0
    for name, layer in drawn.items():
        assert not layer.bias.any(), name
        for array in in_tensorflows_layout(name, layer):
            *field, fan_in, fan_out = array.shape
            scale = 1e-10 if ends_a_block(name) else 1
            std = (scale / (math.prod(field) * (fan_in + fan_out) / 2)) ** 0.5
            n = array.numel()
            assert 3**0.5 * std * (1 - 20 / n) < array.abs().max() <= 3**0.5 * std * (1 + 1e-6), name
            assert array.std().item() == pytest.approx(std, rel=5 * (0.2 / n) ** 0.5), name  # 5 of its standard errors
            assert abs(array.mean()) < 5 * std / n**0.5, name
            checked += 1
    # two of the time, the first, the last; residual blocks and their shortcuts; attention; resampling
    assert checked == 4 + 22 * 3 + 13 + 6 * 4 + 6
    assert drawn["down.0.0.conv1"].weight.std().item() == pytest.approx(1152**-0.5, rel=0.01)


def test_torch_initialization_is_that_of_fresh_layers():
    """Bit for bit: every layer built in the network's order, from the same seed, by torch alone."""
    torch.manual_seed(0)
    network = small(classes=3)
    torch.manual_seed(0)
    for name, layer in layers(network).items():
        if isinstance(layer, torch.nn.Conv2d):
            fresh = torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
        else:
            fresh = type(layer)(*layer.weight.shape[:: -1 if isinstance(layer, torch.nn.Linear) else 1])
        for key, tensor in layer.state_dict().items():
            assert torch.equal(tensor, fresh.state_dict()[key] * (0 if ends_a_block(name) else 1)), f"{name}.{key}"


def test_ddpm_initialization_follows_the_runs_seed():
    def weights(seed):
        network = build_model(experiment("model.network.initialization=ddpm", f"seed={seed}")).network
        return torch.cat([each.flatten() for each in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
