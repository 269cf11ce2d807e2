"""Tokenizers of one vocabulary that cut text alike, or not."""

import warnings

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from eft_ext.hf.inputs.vocabulary import compare_tokenizers

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("2", "0"), ("20", "2"), ("202", "3"), ("h", "e"), ("t", "he"), ("l", "l"), ("z", "q")]
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def fast(inner, pre=None, normalizer=None, post=None, added=()):
    inner = Tokenizer(inner)
    if pre is not None:
        inner.pre_tokenizer = pre
    if normalizer is not None:
        inner.normalizer = normalizer
    if post is not None:
        inner.post_processor = post
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_tokens([AddedToken("<mask>"), *added])
    return tokenizer


def bpe(pre=BYTES, merges=MERGES, *, model=None, **parts):
    words = [*LETTERS, *(a + b for a, b in MERGES)]
    inner = models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges, **(model or {}))
    return fast(inner, pre, **parts)


def unigram(scores, **parts):
    return fast(models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0), pre_tokenizers.Metaspace(), **parts)


def compare(mine, theirs):
    compare_tokenizers("large", mine, "tuned", theirs)


def passes_silently(mine, theirs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(mine, theirs)


def test_digits_cut_otherwise():
    single = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
    said = (
        r"^tuned: expected to cut text as large does, but '2023 in .* differs from token 0: "
        r"\['2023', .* in large, \['2', '0', '2'\] in tuned"
    )
    with pytest.raises(ValueError, match=said):
        compare(bpe(), bpe(single))


def test_other_merges():
    swapped = [*MERGES[:3], MERGES[5], *MERGES[3:5], MERGES[6]]
    said = (
        r'^tuned: expected to cut text as large does, but merge 3 is \["h", "e"\] in large, \["l", "l"\] in tuned '
        r"\(check_tokenizers=False, or --any-tokenizers, takes them as they are\)$"
    )
    with pytest.raises(ValueError, match=said):
        compare(bpe(), bpe(merges=swapped))
    with pytest.raises(ValueError, match=r'merge 6 is \["z", "q"\] in large, null in tuned'):
        compare(bpe(), bpe(merges=MERGES[:-1]))


def test_another_kind_of_model():
    pieces = {word: i for i, word in enumerate(["[UNK]", "a"])}
    word_piece, word_level = models.WordPiece(pieces, unk_token="[UNK]"), models.WordLevel(pieces, unk_token="[UNK]")
    split = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="the tokenizer's kind is WordPiece in large, WordLevel in tuned"):
        compare(fast(word_piece, split), fast(word_level, split))


def test_scores():
    scores = {"▁": -1.0, "a": -2.0, "▁a": -2.5, "b": -3.3}
    with pytest.raises(ValueError, match=r"the score of '▁a' is -2.5 in large, -2.25 in tuned"):
        compare(unigram(scores), unigram({**scores, "▁a": -2.25}))
    passes_silently(unigram(scores), unigram({**scores, "b": -3.299999952316284}))


def test_what_does_not_cut():
    start = bpe().convert_tokens_to_ids("<mask>")
    template = processors.TemplateProcessing(single="<mask> $A", special_tokens=[("<mask>", start)])
    offsets = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    other = bpe(offsets, post=template)
    other.backend_tokenizer.enable_truncation(5)
    other.add_special_tokens({"mask_token": "<mask>"})
    passes_silently(bpe(), bpe())
    passes_silently(bpe(), other)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"normalizer": normalizers.Sequence([])}, 'normalizer is null in large, {"type": "Sequence", '),
        (
            {"pre": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("\x00"), "isolated"), BYTES])},
            'pre_tokenizer is {"type": "ByteLevel", ',
        ),
        ({"model": {"fuse_unk": True}}, "model.fuse_unk is false in large, true in tuned"),
        ({"added": [AddedToken("the")]}, "the is no added token in large, added in tuned"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_spelling_is_warned_of(parts, said):
    """The last is a word that the probes around it cut alike."""
    with pytest.warns(UserWarning, match=r"^tuned: its tokenizer cuts every probe as that of large does, ") as caught:
        compare(bpe(), bpe(**parts))
    assert said in str(caught[0].message)
    assert len(caught) == 1


def test_added_tokens_that_take_the_space_before_them():
    said = r"^tuned: expected to cut text as large does, but 'a <mask> b' differs from token 1"
    with pytest.raises(ValueError, match=said):
        compare(bpe(), bpe(added=[AddedToken("<mask>", lstrip=True)]))


def test_equal_parts_are_not_read(monkeypatch):
    """Megabytes of them, for hundreds of thousands of tokens."""
    monkeypatch.setattr("eft_ext.hf.inputs.vocabulary.json.loads", lambda text: pytest.fail("read"))
    passes_silently(bpe(), bpe())
