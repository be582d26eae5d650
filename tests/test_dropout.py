"""Dropout on a processor: the share, the mean, the gradients and the attention that PyTorch's own gives."""

import pytest
import torch
from conftest import DECODERS, FAMILIES
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_transfer.training.speed.dropout import QuickDropout, attention, dropout, quick_dropout

DROPPING = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "dropout": 0.5, "attention_dropout": 0.5,
            "mlp_dropout": 0.5}  # fmt: skip


def test_a_share_is_zeroed_and_the_rest_scaled_in_both_directions():
    x = torch.full((100, 1001), 2.0, requires_grad=True)
    torch.manual_seed(0)
    y = dropout(x, 0.1)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - 0.1) < 4 * (0.1 * 0.9 / x.numel()) ** 0.5
    assert torch.allclose(y[y != 0], torch.tensor(2 / 0.9), rtol=1e-4)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    assert torch.allclose(x.grad * 2, y)


def test_the_same_seed_drops_the_same():
    def draw(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(1000), 0.3)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_places_are_independent():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(200_000), 0.5) != 0).float()
    for lag in (1, 2, 3, 4, 8):
        together = (kept[:-lag] * kept[lag:]).mean().item()
        assert abs(together - 0.25) < 0.01, lag


@pytest.mark.parametrize("masked", ["true where attended", "added", None])
def test_attention_is_sdpas(masked):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 8) for _ in range(3))
    mask = None
    if masked is not None:
        mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
        mask[1, :, :, 3:] = False
    if masked == "added":
        mask = torch.zeros(2, 1, 5, 5).masked_fill(~mask, torch.finfo(torch.float32).min)
    module = torch.nn.Module()
    module.is_causal = False
    ours, _ = attention(module, query, key, value, mask, dropout=1 / 65536, scaling=0.3)  # nearly nothing is dropped
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_it_in_training_alone(tiny, family):
    config = AutoConfig.from_pretrained(tiny(family))
    for name, share in DROPPING.items():
        if hasattr(config, name):
            setattr(config, name, share)
    config.pad_token_id = 0  # as a run sets a decoder's
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    batch = {"input_ids": torch.randint(5, 20, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    batch["attention_mask"][0, 4:] = 0
    model.eval()
    live = model(**batch).logits
    before = [type(module) for module in model.modules()]
    with quick_dropout(model):
        # Llama and its kin have dropout in their attention alone.
        assert any(isinstance(module, QuickDropout) for module in model.modules()) == (family not in DECODERS[1:])
        assert torch.allclose(model(**batch).logits, live, atol=1e-6)
        model.train()
        assert not torch.allclose(model(**batch).logits, model(**batch).logits, atol=1e-3)
        model.eval()
    assert [type(module) for module in model.modules()] == before
    assert torch.equal(model(**batch).logits, live)
