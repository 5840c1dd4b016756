"""Models nobody here wrote: GPT-2, Llama, ViT and ResNet of transformers, with random weights."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from transfer.norms import make_norm
from transfer.optimizers import Scion
from transfer.roles import ParameterTable, infer_roles, parameter_groups

transformers = pytest.importorskip("transformers", reason="transformers is in the extra dev")


def gpt2(w: int) -> nn.Module:
    """Return GPT-2 with tied embedding and head."""
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=w, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama(w: int) -> nn.Module:
    """Return Llama with two key-value heads at every width."""
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=w,
        intermediate_size=3 * w,
        num_hidden_layers=2,
        num_attention_heads=w // 4,
        num_key_value_heads=2,
        head_dim=4,
    )
    return transformers.LlamaForCausalLM(config)


def vit(w: int) -> nn.Module:
    """Return a vision transformer."""
    config = transformers.ViTConfig(
        hidden_size=w,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * w,
        image_size=16,
        patch_size=4,
        num_labels=10,
    )
    return transformers.ViTForImageClassification(config)


def resnet(w: int) -> nn.Module:
    """Return a residual network of basic blocks."""
    config = transformers.ResNetConfig(
        embedding_size=w,
        hidden_sizes=[w, 2 * w],
        depths=[1, 1],
        layer_type="basic",
        num_labels=10,
    )
    return transformers.ResNetForImageClassification(config)


TOKENS = {"input_ids": torch.arange(24).reshape(2, 12), "labels": torch.arange(24).reshape(2, 12)}
IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.tensor([1, 2])}
MODELS: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {
    "gpt2": (gpt2, TOKENS),
    "llama": (llama, TOKENS),
    "vit": (vit, IMAGES),
    "resnet": (resnet, IMAGES),
}
COUNTS = {
    "gpt2": {"tied": 1, "embedding": 1, "hidden": 8, "gain": 5, "bias": 13},
    "llama": {"embedding": 1, "hidden": 14, "gain": 5, "output": 1},
    "vit": {"embedding": 2, "input": 1, "hidden": 12, "gain": 5, "bias": 19, "output": 1},
    "resnet": {"convolution": 6, "gain": 6, "bias": 7, "output": 1},
}


def inferred(name: str) -> ParameterTable:
    """Return the table of a model at width 16."""
    build, _ = MODELS[name]
    return infer_roles(build(16), build(32))


@pytest.mark.parametrize("name", MODELS)
def test_roles(name: str) -> None:
    assert Counter(row.role for row in inferred(name)) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "parameter", "role", "dims", "blocks"),
    [
        ("gpt2", "transformer.wte.weight", "tied", (50, 16), 0),
        ("gpt2", "transformer.wpe.weight", "embedding", (16, 16), 0),
        ("gpt2", "transformer.h.1.attn.c_attn.weight", "hidden", (16, 16), 3),
        ("gpt2", "transformer.h.1.attn.c_attn.bias", "bias", (16, 1), 3),
        ("gpt2", "transformer.h.1.mlp.c_fc.weight", "hidden", (64, 16), 0),
        ("gpt2", "transformer.h.1.mlp.c_proj.weight", "hidden", (16, 64), 0),
        ("llama", "model.embed_tokens.weight", "embedding", (16, 50), 0),
        ("llama", "model.layers.1.self_attn.k_proj.weight", "hidden", (8, 16), 0),
        ("llama", "model.layers.1.mlp.down_proj.weight", "hidden", (16, 48), 0),
        ("llama", "model.norm.weight", "gain", (16, 1), 0),
        ("llama", "lm_head.weight", "output", (50, 16), 0),
        ("vit", "vit.embeddings.cls_token", "embedding", (16, 1), 0),
        ("vit", "vit.embeddings.position_embeddings", "embedding", (16, 17), 0),
        ("vit", "vit.embeddings.patch_embeddings.projection.weight", "input", (16, 48), 0),
        ("vit", "classifier.weight", "output", (10, 16), 0),
        ("resnet", "resnet.embedder.embedder.convolution.weight", "convolution", (16, 3), 0),
        ("resnet", "classifier.1.weight", "output", (10, 32), 0),
    ],
)
def test_rows(name: str, parameter: str, role: str, dims: tuple[int, int], blocks: int) -> None:
    found = inferred(name)
    row = found[parameter]
    assert row.role == role
    assert row.dims(row.rule(found.rules).norm) == dims
    assert len(row.layout.split_sizes) == blocks


@pytest.mark.parametrize("name", MODELS)
def test_a_step_lies_on_the_spheres(name: str) -> None:
    """Through the model's own loss: every parameter moves by stepsize * radius in its norm."""
    build, batch = MODELS[name]
    model = build(16).double()
    found = inferred(name)
    optimizer = Scion(parameter_groups(model, found), lr=0.25, alpha=1.0, polar="svd")
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    model(**inputs).loss.backward()
    optimizer.step()
    still = set()
    for key, p in model.named_parameters():
        rule = found[key].rule(found.rules)
        norm, layout = make_norm(rule.norm), found[key].layout_for(rule.norm)
        for block in layout.blocks((p - before[key]).detach()):
            sizes = norm.norm(layout.to_events(block, norm.event_ndim))
            if sizes.any():
                torch.testing.assert_close(sizes, torch.full_like(sizes, 0.25))
            else:
                still.add(key)
    # A bias of keys has no effect on attention: its gradient is rounding noise or zero.
    assert all(key.endswith(("k_proj.bias", "c_attn.bias")) for key in still), still


def test_gpt2_steps_as_with_linear_layers_and_separate_projections() -> None:
    """The silent trap: Conv1D holds (d_in, d_out), so aspect factor and QKV axis are flipped."""
    torch.manual_seed(0)
    model = gpt2(16).double()
    optimizer = Scion(parameter_groups(model, inferred("gpt2")), lr=0.1, alpha=1.0, polar="svd")
    block = model.transformer.h[0]
    names = {"attn.c_attn": 3, "mlp.c_fc": 1, "mlp.c_proj": 1}
    model(**TOKENS).loss.backward()
    linear: dict[str, list[nn.Parameter]] = {}
    for name, parts in names.items():
        conv = block.get_submodule(name)
        linear[name] = [nn.Parameter(w.mT.clone()) for w in conv.weight.detach().chunk(parts, 1)]
        for p, g in zip(linear[name], conv.weight.grad.chunk(parts, 1), strict=True):
            p.grad = g.mT.clone()
    plain = Scion([p for ps in linear.values() for p in ps], lr=0.1, alpha=1.0, polar="svd")
    optimizer.step()
    plain.step()
    for name, parts in names.items():
        got = block.get_submodule(name).weight.detach().chunk(parts, 1)
        for mine, its in zip(linear[name], got, strict=True):
            torch.testing.assert_close(its.mT, mine.detach())


@pytest.mark.parametrize("name", ["gpt2", "resnet"])
def test_training_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    build, batch = MODELS[name]
    model = build(16)
    optimizer = Scion(parameter_groups(model, inferred(name)), lr=2**-4)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
