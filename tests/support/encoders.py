"""Tiny encoders with tokenizers of their own kind, random and in float32, and rows that can be told apart by their
topics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.trainings import save_jsonl

TOPICS = {
    "fruit": ["apple", "pear", "plum", "cherry", "banana", "quince"],
    "tool": ["hammer", "saw", "drill", "chisel", "pliers", "rasp"],
    "weather": ["rain", "snow", "wind", "fog", "hail", "frost"],
}
_SENTENCES = ("we saw {} and {} today", "{} is not {}", "some {} , then {}", "{} {}")
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def topic_rows(*, seed: int = 0, count: int = 36) -> list[dict[str, str]]:
    """Return {text, label} rows whose words alone show their topic."""
    rows = []
    for number in range(seed, seed + count):
        topic = sorted(TOPICS)[number % len(TOPICS)]
        words, sentence = TOPICS[topic], _SENTENCES[number // 3 % len(_SENTENCES)]
        rows.append({"text": sentence.format(words[number * 5 % 6], words[(number * 7 + 1) % 6]), "label": topic})
    return rows


def write_topics(path: Path, **which: int) -> Path:
    """Write `topic_rows` as JSONL; return the path."""
    return save_jsonl(path, topic_rows(**which))


def _texts() -> list[str]:
    return [row["text"] for row in topic_rows(count=144)]


def save_bert(folder: Path, *, pooler: bool = True, seed: int = 5) -> Path:
    """Write a BERT of two layers; without `pooler`, as one that was trained to fill masks is saved."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(
        _texts(), trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]", **names)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, initializer_range=0.1, **SIZES)
    (BertModel if pooler else BertForMaskedLM)(config).save_pretrained(folder)
    return folder


def save_roberta(folder: Path, *, seed: int = 6, **config: Any) -> Path:
    """Write a RoBERTa of two layers for texts of 32 tokens, whose positions are counted from its padding token on."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(_texts(), trainer)
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, mask_token="<mask>", **names)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 34, "pad_token_id": 1, **config}
    RobertaForMaskedLM(RobertaConfig(initializer_range=0.1, **sizes)).save_pretrained(folder)
    return folder
