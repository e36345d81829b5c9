"""Trials of packages for text."""

from __future__ import annotations

import torch
from torch import nn
from trials import Step, trial


@trial("fastai", "AWD_LSTM, language model (weight dropout)")
def _() -> tuple[nn.Module, Step]:
    from fastai.text.models import AWD_LSTM, get_language_model

    tokens = torch.randint(1000, (8, 40))
    model = get_language_model(AWD_LSTM, 1000)

    def step(model: nn.Module) -> object:
        model.reset()
        return [model(part) for part in tokens.split(20, 1)]  # the state of the first part goes into the second

    return model, step


@trial("stanza", "CharacterLanguageModel (packed)")
def _() -> tuple[nn.Module, Step]:
    from stanza.models.common.char_model import CharacterLanguageModel

    arguments = dict.fromkeys(["char_dropout", "char_rec_dropout"], 0) | {
        "char_emb_dim": 100, "char_hidden_dim": 512, "char_num_layers": 1
    }  # fmt: skip
    model = CharacterLanguageModel(arguments, {"char": list(range(100))})
    chars, lengths = torch.randint(100, (16, 120)), list(range(120, 72, -3))
    return model, lambda model: model(chars, lengths)


@trial("stanza", "PackedLSTM with recurrent dropout (LSTMCell)")
def _() -> tuple[nn.Module, Step]:
    from stanza.models.common.packed_lstm import PackedLSTM

    words, lengths = torch.randn(16, 40, 100), list(range(40, 8, -2))
    model = PackedLSTM(100, 128, 1, batch_first=True, bidirectional=True, rec_dropout=0.3, pad=True)
    states = torch.zeros(2, 16, 128), torch.zeros(2, 16, 128)
    return model, lambda model: model(words, lengths, states)


@trial("stanza", "HighwayLSTM of the parser (packed)")
def _() -> tuple[nn.Module, Step]:
    from stanza.models.common.hlstm import HighwayLSTM

    words, lengths = torch.randn(32, 30, 200), list(range(30, 14, -1)) + [14] * 16
    model = HighwayLSTM(200, 200, num_layers=3, batch_first=True, bidirectional=True, dropout=0.5, pad=True)
    return model, lambda model: model(words, lengths)


@trial("stanza", "Seq2SeqModel of the lemmatizer (packed, LSTMCell)")
def _() -> tuple[nn.Module, Step]:
    from stanza.models.common.seq2seq_model import Seq2SeqModel

    arguments = {"vocab_size": 60, "emb_dim": 50, "hidden_dim": 100, "num_layers": 1, "dropout": 0.5, "max_dec_len": 50}
    model = Seq2SeqModel(arguments | {"attn_type": "soft"})
    letters, lengths = torch.randint(4, 60, (32, 16)), sorted(torch.randint(3, 17, (32,)).tolist(), reverse=True)
    lengths[0] = 16
    mask = torch.arange(16) >= torch.tensor(lengths)[:, None]
    return model, lambda model: model(letters.masked_fill(mask, 0), mask, letters)


@trial("flair", "LanguageModel (characters)")
def _() -> tuple[nn.Module, Step]:
    from flair.data import Dictionary
    from flair.models import LanguageModel

    dictionary = Dictionary()
    for n in range(100):
        dictionary.add_item(chr(32 + n))
    model = LanguageModel(dictionary, is_forward_lm=True, hidden_size=512, nlayers=1)
    chars = torch.randint(100, (120, 16))
    return model, lambda model: model(chars, model.init_hidden(16))


@trial("flair", "SequenceTagger (packed, both directions)")
def _() -> tuple[nn.Module, Step]:
    from flair.data import Dictionary, Sentence
    from flair.embeddings import OneHotEmbeddings
    from flair.models import SequenceTagger

    words, tags = Dictionary(), Dictionary(add_unk=False)
    for n in range(200):
        words.add_item(f"word{n}")
    for tag in ("A", "B", "C"):
        tags.add_item(tag)
    embeddings = OneHotEmbeddings(words, embedding_length=100)
    model = SequenceTagger(embeddings, tags, "kind", tag_format="BIO", use_crf=True, rnn_layers=2)
    sentences = []
    for length in range(4, 36):
        sentence = Sentence([f"word{n}" for n in torch.randint(200, (length,))])
        for token in sentence:
            token.set_label("kind", "ABC"[len(token.text) % 3])
        sentences.append(sentence)

    def step(model: nn.Module) -> object:
        for sentence in sentences:
            sentence.clear_embeddings()
        return model.forward_loss(sentences)[0]

    return model, step


@trial("flair", "DocumentRNNEmbeddings (packed)")
def _() -> tuple[nn.Module, Step]:
    from flair.data import Dictionary, Sentence
    from flair.embeddings import DocumentRNNEmbeddings, OneHotEmbeddings

    words = Dictionary()
    for n in range(200):
        words.add_item(f"word{n}")
    embeddings = OneHotEmbeddings(words, embedding_length=100)
    model = DocumentRNNEmbeddings([embeddings], hidden_size=256, bidirectional=True, rnn_type="LSTM")
    sentences = [Sentence([f"word{n}" for n in torch.randint(200, (length,))]) for length in range(4, 36)]

    def step(model: nn.Module) -> object:
        for sentence in sentences:
            sentence.clear_embeddings()
        model.embed(sentences)
        return [sentence.get_embedding() for sentence in sentences]

    return model, step


@trial("peft", "PromptEncoder (LSTM head of p-tuning)")
def _() -> tuple[nn.Module, Step]:
    from peft import PromptEncoder, PromptEncoderConfig

    config = PromptEncoderConfig(
        encoder_reparameterization_type="LSTM", encoder_hidden_size=256, encoder_num_layers=2, num_virtual_tokens=20,
        num_transformer_submodules=1, token_dim=256, num_attention_heads=4, num_layers=2,
    )  # fmt: skip
    model, indices = PromptEncoder(config), torch.arange(20).expand(8, 20)
    return model, lambda model: model(indices)
