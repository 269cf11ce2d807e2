"""Special tokens that the models of a mixture do not share: which they are, and what becomes of each."""

import pytest
import torch

from eft_ext import SpecialTokens
from eft_ext.hf import EmulatedModel
from eft_ext.hf.inputs.special_tokens import special_tokens_of, told, with_policies
from eft_ext.hf.inputs.words import joined
from eft_ext.methods import Contrast, Interpolate, MixingMethod, Plain, Realign, UpScale
from python_tests.helpers.added_tokens import BASE, FIRST, LARGE, TUNED, trio, words


def ends(name, *more):
    return (FIRST, *more)


def policies(method, each, ends=ends):
    return {token.id - FIRST: token.policy for token in special_tokens_of(method, each, ends)}


def test_each_policy():
    assert policies(UpScale(), trio()) == {0: "mix", 1: "own", 2: "own", 3: "own", 5: "own", 6: "never"}
    assert told(special_tokens_of(UpScale(), trio(), ends)).splitlines() == [
        "special tokens that the models do not share:",
        " id  large         tuned        base          policy",
        "256  <|end|>       <eot>        <|end|>       mix: end of text",
        "257  <|im_start|>  <User>       <|im_start|>  own: tuned knows it",
        "258  <|im_end|>    <Assistant>  <|im_end|>    own: tuned knows it",
        "259  <|box|>       <think>      <|box|>       own: tuned knows it",
        "261  -             </think>     <|file|>      own: tuned knows it",
        "262  -             -            <|extra|>     never: tuned does not know it",
    ]


def test_an_end_of_one_model_alone_is_no_role_in_common():
    assert policies(UpScale(), trio(), lambda name: (FIRST,) if name != "base" else ())[0] == "own"
    assert policies(UpScale(), trio(), lambda name: (FIRST, FIRST + 2))[2] == "mix"


def test_the_same_tokens_everywhere():
    alike = {name: words(LARGE) for name in ("large", "tuned", "base")}
    found = joined(UpScale(), alike, lambda name: pytest.fail("not needed"))
    assert found.special is None
    assert found.found == ()
    assert set(map(id, found.each.values())) == {id(found.tokenizer)} == {id(alike["large"])}


def test_several_behaviours():
    """The first owns; what only the other knows is not used."""
    one, other = words(LARGE[:3]), words(TUNED)
    each = {"large": words(LARGE[:3]), "one": one, "other": other, "base": words(LARGE[:3])}
    method = Interpolate({"one": 0.5, "other": 0.5})
    found = special_tokens_of(method, each, ends)
    assert {t.id - FIRST: (t.policy, t.why) for t in found} == {
        0: ("mix", "end of text"),
        1: ("own", "one knows it"),
        2: ("own", "one knows it"),
        3: ("never", "only other knows it"),
        4: ("never", "only other knows it"),
        5: ("never", "only other knows it"),
    }
    assert joined(method, each, ends).special == SpecialTokens((257, 258), (259, 260, 261), "one")


@pytest.mark.parametrize(
    ("method", "owner"),
    [(Realign(), "aligned"), (Contrast(), "expert"), (UpScale(), "tuned")],
    ids=["realign", "contrast", "up-scale"],
)
def test_the_owner(method, owner):
    """The behaviour; where there is none, the model whose texts the others only bend."""
    each = {name: words(TUNED if name == owner else LARGE) for name in method.models}
    found = joined(method, each, ends)
    assert found.special == SpecialTokens((257, 258, 259, 261), (), owner)
    assert found.tokenizer is each[owner]


class NoEnds(MixingMethod):
    models = ("one", "other")

    def weights(self):
        return (0.5, 0.5)


def test_no_behaviour():
    assert set(policies(NoEnds(), {"one": words(LARGE), "other": words(TUNED)}).values()) == {"mix"}
    assert joined(Plain(), {"model": words(LARGE)}, ends).special is None


def asked(given, method=None):
    return joined(method or UpScale(), trio(), ends, asked=given)


def test_overrides():
    found = asked({"<think>": "never", 258: "mix", "<|extra|>": "mix"})
    assert found.special == SpecialTokens((257, 261), (259,), "tuned")
    assert {t.id: t.why for t in found.found if t.why == "as asked"}.keys() == {258, 259, 262}
    assert asked({i: "mix" for i in (257, 258, 259, 261, 262)}).special is None
    assert asked({}).special == asked(None).special
    ids = SpecialTokens((259, 261), (257,), "tuned")
    assert asked(ids).special is ids
    assert [t.policy for t in asked(ids).found] == ["mix", "never", "mix", "own", "own", "mix"]
    assert asked(SpecialTokens()).special is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"<no>": "own"},
            r"^special_tokens\['<no>'\]: expected a special token that differs .* \(256 <eot>, 257 <User>, ",
        ),
        ({260: "never"}, r"^special_tokens\[260\]: expected a special token that differs .* got another$"),
        ({"<think>": "mine"}, r"^special_tokens\['<think>'\]: expected one of mix, own, never, got 'mine'$"),
        ({262: "own"}, r"^special_tokens\[262\]: expected mix or never, since tuned has no token 262$"),
        (
            SpecialTokens((259,), (), "small"),
            r"^special_tokens: expected an owner among large, tuned, base, got 'small'",
        ),
    ],
    ids=["no such token", "shared", "no policy", "not its own", "no owner"],
)
def test_wrong_overrides(given, said):
    with pytest.raises(ValueError, match=said):
        asked(given)


def test_overrides_of_another_type():
    with pytest.raises(TypeError, match=r"^special_tokens: expected policies by token, or SpecialTokens, got list$"):
        asked(["<think>"])


def test_a_text_at_several_ids():
    """The owner's token counts; of the others' none does."""
    each = {"large": words(("<|end|>", "<a>", "<b>")), "tuned": words(("<|end|>", "<b>", "<c>"))}
    each["base"] = words(("<|end|>", "<c>", "<a>"))
    found = special_tokens_of(UpScale(), each, ends)
    changed = with_policies(found, {"<b>": "never"}, UpScale())
    assert [t.policy for t in changed] == ["never", "own"]
    with pytest.raises(ValueError, match=r"^special_tokens\['<a>'\]: expected one token, got those of 257, 258$"):
        with_policies(found, {"<a>": "never"}, UpScale())


def test_long_tables_are_cut():
    many = tuple(f"<{i}>" for i in range(40))
    lines = told(special_tokens_of(UpScale(), {**trio(), "base": words((*BASE, *many))}, ends)).splitlines()
    assert len(lines) == 33
    assert lines[-1] == "... and 16 more"


@pytest.fixture
def mixture(build):
    def made(tokenizers=None, **options):
        three = [build("llama", seed, width, 264) for seed, width in ((0, 32), (1, 16), (2, 16))]
        for model in three:
            model.generation_config.eos_token_id = FIRST
        return EmulatedModel(*three, trio() if tokenizers is None else tokenizers, **options)

    return made


def test_tokenizers_by_name(mixture):
    model = mixture()
    assert model.special_tokens == SpecialTokens((257, 258, 259, 261), (262,), "tuned")
    assert model.tokenizer is model.tokenizers["tuned"]
    assert model.chosen().special_tokens == model.special_tokens
    assert mixture(words(LARGE)).chosen().special_tokens is None
    assert mixture(special_tokens={"<think>": "never"}).special_tokens == SpecialTokens(
        (257, 258, 261), (259, 262), "tuned"
    )
    with pytest.raises(ValueError, match=r"^tokenizer: expected one for each of large, tuned, base, got large, tuned$"):
        mixture({"large": words(LARGE), "tuned": words(TUNED)})
    with pytest.raises(ValueError, match=r"^tokenizer: expected one for base, got None$"):
        mixture(trio() | {"base": None})
    with pytest.raises(ValueError, match=r"^special_tokens\['<think>'\]: .* \(none\), got another$"):
        mixture(words(TUNED), special_tokens={"<think>": "never"})


def test_a_model_too_narrow_for_an_own_token(build):
    narrow, wide = (build("llama", 0, 16, width) for width in (261, 264))
    each = {"large": words(LARGE), "tuned": words((*LARGE, "<think>")), "base": words(LARGE)}
    said = r"^large: expected logits for 261, a token of tuned's own, got 261 columns \(the policy never does without"
    with pytest.raises(ValueError, match=said):
        EmulatedModel(narrow, wide, narrow, each)
    model = EmulatedModel(narrow, wide, narrow, each, special_tokens={"<think>": "never"})
    assert model.vocab_size == 261


def test_the_behaviours_decodes_where_a_mark_is_special_to_others_alone(mixture):
    """DeepSeek's `</think>` is such a mark: readers of an answer see it."""
    hiding, showing = words(TUNED), words(TUNED[:-1])
    showing.add_tokens([TUNED[-1]])
    model = mixture({"large": hiding, "tuned": showing, "base": hiding})
    assert model.special_tokens is None
    ids = [*hiding("a").input_ids, FIRST + 5, *hiding("b").input_ids]
    assert hiding.decode(ids, skip_special_tokens=True) == "ab"
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == "a</think>b"
    assert list(model.encode("a</think>", None, {}, model.method)) == ["large"]


def test_ends(mixture):
    """Those that mean in the mixture what they mean to the model that ends by them."""
    model = mixture()
    model.large.generation_config.eos_token_id = [FIRST, FIRST + 2]  # <|im_end|>, where tuned has <Assistant>
    model.tuned.generation_config.eos_token_id = [FIRST, FIRST + 5]  # </think>, of its own
    from eft_ext.hf.inputs.arguments import ends_of

    assert ends_of(model.members, model.method.ending) == [256, 258, 261]
    assert ends_of(model.members, model.method.ending, model.words.means) == [256, 261]
    never = mixture(special_tokens={"</think>": "never"})
    never.tuned.generation_config.eos_token_id = [FIRST, FIRST + 5]
    assert ends_of(never.members, never.method.ending, never.words.means) == [256]


def test_each_reads_its_own_ids(mixture, shapes_read):
    """A text of one special token is one id to the model that knows it, and letters to the others."""
    model = mixture()
    with shapes_read(model.large) as large, shapes_read(model.tuned) as tuned, shapes_read(model.base) as base:
        model.generate_text("a<think>", max_new_tokens=1)
    assert (large[0], tuned[0], base[0]) == ((1, 8), (1, 2), (1, 8))
    encoded = model.encode("a<|box|>", {"base": "<|file|>"}, {}, model.method)
    assert {name: prompt.rows for name, prompt in encoded.items()} == {
        "large": [[*model.tokenizer("a").input_ids, 259]],
        "tuned": [model.tokenizer("a<|box|>").input_ids],
        "base": [[261]],
    }


def test_scores(mixture):
    """A response is cut by the tokenizer of the behaviour, which knows its own tokens; prompts each by its model's."""
    model = mixture()
    score = model.score("a<think>", "b</think>")
    assert score.ids.tolist() == [[*model.tokenizer("b").input_ids, 261]]
    alone = model.score([[*model.tokenizers["large"]("a<think>").input_ids]], [score.ids[0].tolist()])
    own = model.tuned(torch.tensor([[*model.tokenizer("a<think>b").input_ids]])).logits[0, -2:].log_softmax(-1)
    tuned = model.method.models.index("tuned")
    wanted = own.gather(-1, score.ids[0, :, None])[:, 0]
    torch.testing.assert_close(score.tokens.logprobs[0, :, tuned], wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(alone.tokens.logprobs[0, :, tuned], wanted, atol=1e-4)
    with pytest.raises(ValueError, match=r"^responses: expected some, since the models read different tokens"):
        model.score("a<think>b")
