# SPDX-License-Identifier: Apache-2.0
"""Makes a tiny language model with a tokenizer in a folder, without any download.

    python make_tiny_model.py FOLDER [llama|gemma3|mla]

Its weights are random, but chosen so that its answers depend on every token of the prompt: input
and output embeddings are not tied and the weights are spread wide. A model that repeats one token
whatever its KV cache holds would hide every mistake in a KV transfer.

The kinds stand for the layouts of KV cache: `llama` has full attention only, `gemma3` mixes sliding
windows with full attention, `mla` keeps latents.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

VOCABULARY = 1024
SPREAD = 0.2
SEED = 0
MAX_POSITIONS = 4096
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 256,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": SPREAD,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def llama() -> PretrainedConfig:
    """Full attention, two KV heads."""
    return LlamaConfig(**COMMON, num_attention_heads=4, num_key_value_heads=2, head_dim=32)


def gemma3() -> PretrainedConfig:
    """Three layers with a sliding window, then one with full attention."""
    return Gemma3TextConfig(
        **COMMON,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=256,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
    )


def mla() -> PretrainedConfig:
    """Multi-head latent attention, without experts."""
    return DeepseekV2Config(
        **COMMON,
        num_attention_heads=4,
        num_key_value_heads=4,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        first_k_dense_replace=COMMON["num_hidden_layers"],
    )


KINDS = {"llama": llama, "gemma3": gemma3, "mla": mla}


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, trained on words made of random syllables."""
    rng = random.Random(SEED)  # the same model in every run  # nosec B311
    syllables = [first + vowel for first in "bcdfghklmnprstvwz" for vowel in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(20_000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
    )


def make(folder: Path, kind: str = "llama") -> None:
    """Writes configuration, weights and tokenizer; overwrites what is there."""
    torch.manual_seed(SEED)
    model: Any = AutoModelForCausalLM.from_config(KINDS[kind]())
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", nargs="?", choices=KINDS, default="llama")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.kind)


if __name__ == "__main__":
    main()
