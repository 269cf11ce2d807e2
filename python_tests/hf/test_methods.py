"""Named methods in the driver: each token for token against a plain loop, with weights that change and differ."""

import copy
import re

import numpy as np
import peft
import pytest
import torch

from eft_ext import methods as m
from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from eft_ext.hf.mixture import Mixture

NEW = 10
VOCAB = 264


@pytest.fixture(scope="module")
def models(build):
    """Four random models of two sizes: a large one and three small ones."""
    large = build("llama", 0, 32, 272)
    return [large, *(build("llama", seed, 16, VOCAB) for seed in (1, 2, 3))]


@torch.no_grad()
def naive(models, z_of, prompts, new=NEW):
    """One row, everything read anew at each token; `z_of(step, logits)` mixes float64 logits [V]."""
    sequences, out = [list(p) for p in prompts], []
    for step in range(new):
        z = z_of(
            step,
            [x(torch.tensor([s])).logits[0, -1, :VOCAB].double() for x, s in zip(models, sequences, strict=True)],
        )
        out.append(int(z.argmax()))
        for sequence in sequences:
            sequence.append(out[-1])
    return out


def contrast(x, beta, share):
    z = (1 + beta) * x[0] - beta * x[1]
    return z.masked_fill(x[0].softmax(-1) < share * x[0].softmax(-1).max(), -torch.inf)


def conservative(x, scale, top_p):
    large, tuned, base = (v.log_softmax(-1) for v in x)
    p, order = tuned.exp().sort(descending=True)
    inside = torch.zeros(VOCAB, dtype=torch.bool).scatter(0, order, p.cumsum(-1) - p < top_p)
    return torch.where(inside, tuned + scale * (large - base), tuned)


# method, places of its models among the four, its mixture
METHODS = {
    "up-scale": (m.UpScale(0.6), (0, 1, 2), lambda step, x: x[0] + 0.6 * (x[1] - x[2])),
    "down-scale": (m.DownScale(0.6), (1, 0, 2), lambda step, x: x[0] + 0.6 * (x[1] - x[2])),
    "amplify": (m.Amplify(1.4), (0, 1, 2), lambda step, x: x[1] + 1.4 * (x[0] - x[2])),
    "interpolate": (
        m.Interpolate.between("a", "b", 0.3),
        (0, 1, 3, 2),
        lambda step, x: x[0] + 0.3 * x[1] + 0.7 * x[2] - x[3],
    ),
    "changing": (
        m.Interpolate.between("a", "b", lambda step: step / 4),
        (0, 1, 3, 2),
        lambda step, x: x[0] + step / 4 * x[1] + (1 - step / 4) * x[2] - x[3],
    ),
    "conservative": (m.Conservative(0.7, method=m.Amplify(1.3)), (0, 1, 2), lambda _, x: conservative(x, 1.3, 0.7)),
    "contrast": (m.Contrast(0.5, 0.1), (0, 1), lambda step, x: contrast(x, 0.5, 0.1)),
    "realign": (m.Realign(1.5), (1, 2), lambda step, x: 1.5 * x[1] - 0.5 * x[0]),
    "plain": (m.Plain(), (0,), lambda step, x: x[0]),
    "weighted": (m.Weighted({"x": 1.0, "y": -0.4}), (0, 2), lambda step, x: x[0] - 0.4 * x[1]),
}
RAGGED = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31], [41, 42, 43, 44, 45]]


def padded(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, (torch.arange(width) >= torch.tensor([[width - len(row)] for row in rows])).long()


def named(method, places, models):
    return dict(zip(method.models, (models[place] for place in places), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_gives_the_naive_loop(models, name):
    method, places, z_of = METHODS[name]
    chosen = named(method, places, models)
    expected = [naive(chosen.values(), z_of, [row] * len(places)) for row in RAGGED]
    ids, mask = padded(RAGGED)
    options = dict(attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])
    got = EmulatedModel(method=method, **chosen).generate(ids, **options)
    assert got[:, 7:].tolist() == expected
    lead, *others = chosen.items()
    stock = custom_generate(method=method, **dict(others))
    assert torch.equal(lead[1].generate(ids, custom_generate=stock, **options), got)
    processor = EFTLogitsProcessor(method=method, attention_mask=mask, **dict(others))
    columns = list(range(VOCAB, 272)) if lead[1] is models[0] else None  # random in its padded columns too
    theirs = lead[1].generate(ids, logits_processor=[processor], suppress_tokens=columns, **options)
    assert torch.equal(theirs, got)


def test_several_tuned_models(models):
    large, a, base, b = models
    ids = [[5, 6, 7]]
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    assert repr(model.method) == "Interpolate(a=0.5, b=0.5)"
    assert list(model.models) == ["large", "a", "b", "base"]
    assert model.models["b"] is b
    for share, one in ((1.0, a), (0.0, b)):
        got = model.generate(ids, max_new_tokens=NEW, method=m.Interpolate.between("a", "b", share))
        assert torch.equal(got, EmulatedModel(large, one, base).generate(ids, max_new_tokens=NEW))
    stock = custom_generate({"a": a, "b": b}, base)
    again = large.generate(torch.tensor(ids), custom_generate=stock, max_new_tokens=NEW)
    assert torch.equal(again, model.generate(ids, max_new_tokens=NEW))
    turned = m.Interpolate({"b": 0.2, "a": 0.8})
    with pytest.raises(ValueError, match=r"^method: expected one of large, a, b, base, .* of large, b, a, base"):
        model.generate(ids, method=turned)


def test_weights_per_row_and_per_prompt(models):
    large, a, base, b = models
    ids, mask = padded(RAGGED)
    shares = [0.0, 0.3, 0.6, 1.0]
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    for given in (shares, torch.tensor(shares), np.array(shares), lambda step: shares):
        method = m.Interpolate.between("a", "b", given)
        together = model.generate(ids, attention_mask=mask, method=method, **options)
        for row, share in enumerate(shares):
            alone = model.generate([RAGGED[row]], method=m.Interpolate.between("a", "b", share), **options)
            assert torch.equal(together[row, 7:], alone[0, len(RAGGED[row]) :])
    drawn = dict(do_sample=True, **options)
    four = m.Interpolate.between("a", "b", shares)
    twice = model.generate(ids, attention_mask=mask, method=four, num_return_sequences=2, seed=[*range(8)], **drawn)
    one = model.generate([RAGGED[1]], method=m.Interpolate.between("a", "b", 0.3), seed=[3], **drawn)
    assert torch.equal(twice[3, 7:], one[0, 7:])


def test_rows_that_end_take_their_weights_with_them(models):
    """Both for weights that stay and for functions of the step."""
    large, a, base, b = models
    ids, mask = padded(RAGGED)
    shares = torch.tensor([0.0, 0.3, 0.6, 1.0])
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    for given in (shares, lambda step: shares.flip(0) if step % 2 else shares):
        options = dict(attention_mask=mask, max_new_tokens=NEW, method=m.Interpolate.between("a", "b", given))
        free = model.generate(ids, eos_token_id=[999], **options)
        ends = int(free[0, 8])
        cut = model.generate(ids, eos_token_id=ends, pad_token_id=0, **options)
        for row in range(4):
            new = free[row, 7:].tolist()
            n = new.index(ends) + 1 if ends in new else NEW
            assert cut[row, 7 : 7 + n].tolist() == new[:n]


def test_limits(models):
    large, a, base, b = models
    ids, mask = padded(RAGGED)
    options = dict(attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])
    trio = EmulatedModel(large, a, base)
    one = trio.generate(ids, **options)
    assert (trio.large, trio.tuned, trio.base) == (large, a, base)
    for same in (m.UpScale(1.0), m.Amplify(1.0), m.Conservative(1.0)):
        assert torch.equal(trio.generate(ids, method=same, **options), one)
    up = trio.generate(ids, scale=1.3, **options)
    assert torch.equal(trio.generate(ids, method=m.Conservative(1.0, method=m.Amplify(1.3)), **options), up)
    assert not torch.equal(up, one)
    alone = {x: x.generate(ids, **options) for x in (a, b)}
    assert torch.equal(trio.generate(ids, method=m.Amplify(0.0), **options), alone[a])
    for method, expected in (
        (m.Realign(0.0), a),
        (m.Realign(1.0), b),
        (m.Contrast(0.0, 0.3), a),
        (m.Weighted({"x": 0.0, "y": 1.0}), b),
    ):
        model = EmulatedModel(method=method, **named(method, (1, 3), models))
        assert torch.equal(model.generate(ids, **options), alone[expected])
    guided = EmulatedModel(model=a, method=m.Guidance(1.0))
    with pytest.raises(AttributeError, match=r"^large: not a model of Guidance\(scale=1\), which has conditional, un"):
        _ = guided.large
    assert torch.equal(guided.generate(ids, **options), alone[a])


class At:
    """A streamer that changes a method after so many tokens."""

    def __init__(self, method, when, **values):
        self.method, self.when, self.values, self.seen = method, when, values, -1

    def put(self, tokens):
        self.seen += 1  # the prompt first
        if self.seen == self.when:
            self.method.set(**self.values)

    def end(self):
        pass


def test_a_method_is_changed_while_it_generates(models):
    large, a, base, b = models
    method = m.Interpolate({"a": 1.0, "b": 0.0})
    model = EmulatedModel(large, {"a": a, "b": b}, base, method=method)
    got = model.generate([[5, 6, 7]], max_new_tokens=NEW, eos_token_id=[999], streamer=At(method, 4, a=0.1, b=1.3))

    def z_of(step, x):
        return x[0] + x[1] - x[3] if step < 4 else x[0] + 0.1 * x[1] + 1.3 * x[2] - 1.4 * x[3]

    assert got[0, 3:].tolist() == naive([large, a, b, base], z_of, [[5, 6, 7]] * 4)
    assert method.a == pytest.approx(0.1)


@pytest.mark.parametrize("negative", [None, [[60, 61, 62, 63]]])
def test_guidance_is_transformers_guidance(models, negative):
    large = models[0]
    ids = torch.tensor([[5, 6, 7, 8]])
    options = dict(max_new_tokens=NEW, eos_token_id=[999], suppress_tokens=[])
    prompts = None if negative is None else {"unconditional": negative}
    asked = {} if negative is None else {"negative_prompt_ids": torch.tensor(negative)}
    expected = large.generate(ids, guidance_scale=1.7, **asked, **options)
    model = EmulatedModel(model=large, method=m.Guidance(1.7))
    got = model.generate(ids, prompts=prompts, **options)
    assert torch.equal(got, expected)
    stock = custom_generate(method=m.Guidance(1.7))
    assert torch.equal(large.generate(ids, custom_generate=stock, prompts=prompts, **options), got)
    processor = EFTLogitsProcessor(unconditional=large, method=m.Guidance(1.7), prompts=prompts)
    for _ in range(2):  # the second time with the same prompt
        assert torch.equal(large.generate(ids, logits_processor=[processor], **options), got)
    other = torch.tensor([[9, 8, 7]])
    if negative is None:  # a new prompt is recognised
        again = large.generate(other, logits_processor=[processor], **options)
        assert torch.equal(again, model.generate(other, **options))
    else:
        with pytest.raises(ValueError, match=r"^prompts: expected those of this prompt; .* reset"):
            large.generate(other, logits_processor=[processor], **options)
        processor.reset(prompts={"unconditional": [[1, 2]]})
        again = large.generate(other, logits_processor=[processor], **options)
        assert torch.equal(again, model.generate(other, prompts={"unconditional": [[1, 2]]}, **options))
        processor.reset(prompts={"unconditional": [[1, 2], [3, 4]]})
        with pytest.raises(ValueError, match=r"^prompts\['unconditional'\]: expected 1 rows, got 2"):
            large.generate(other, logits_processor=[processor], **options)


def test_guidance_of_ragged_rows(models):
    ids, mask = padded(RAGGED)
    model = EmulatedModel(model=models[0], method=m.Guidance(1.7))
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    together = model.generate(ids, attention_mask=mask, **options)
    for row, prompt in enumerate(RAGGED):
        alone = model.generate([prompt], **options)
        assert torch.equal(together[row, 7:], alone[0, len(prompt) :])


def test_prompts_by_group(models):
    large, a, base, b = models
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    each = {"a": [[3, 5]], "b": [[3, 5]], "base": [[9]]}
    options = dict(max_new_tokens=NEW)
    expected = model.generate([[5, 6]], prompts=each, **options)
    assert torch.equal(model.generate([[5, 6]], prompts={"tuned": [[3, 5]], "base": [[9]]}, **options), expected)
    mixed = model.generate([[5, 6]], prompts={"tuned": {"a": [[3, 5]], "b": [[4]]}}, **options)
    assert torch.equal(mixed, model.generate([[5, 6]], prompts={"a": [[3, 5]], "b": [[4]]}, **options))
    own = model.generate([[5, 6]], prompts={"tuned": [[3, 5]], "b": [[4]]}, **options)
    assert torch.equal(own, mixed)


def with_adapters(base, names):
    torch.manual_seed(9)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model.eval()


@pytest.fixture(scope="module")
def folders(models, tokenizer, tmp_path_factory):
    """Hub-like folders: large, base, and two adapters of base."""
    root = tmp_path_factory.mktemp("methods")
    for name, model in (("large", models[0]), ("base", models[2]), ("other", models[1])):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    both = with_adapters(copy.deepcopy(models[2]), ["one", "two"])
    both.save_pretrained(root)  # to root/one and root/two
    for name in ("one", "two"):
        path = root / name / "adapter_config.json"
        path.write_text(
            path.read_text().replace('"base_model_name_or_path": null', f'"base_model_name_or_path": "{root}/base"')
        )
    return root


def merged(folders, name):
    base = peft.AutoPeftModelForCausalLM.from_pretrained(str(folders / name))
    return base.merge_and_unload().eval()


def test_two_adapters_of_one_base(folders, models):
    a, b = merged(folders, "one"), merged(folders, "two")
    ids = [[5, 6, 7]]
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    expected = EmulatedModel(models[0], {"a": a, "b": b}, models[2]).generate(ids, **options)
    assert not torch.equal(expected, EmulatedModel(models[0], {"a": a, "b": a}, models[2]).generate(ids, **options))
    tuned = {"a": str(folders / "one"), "b": str(folders / "two")}
    for base in (str(folders / "base"), None):
        loaded = EmulatedModel.from_pretrained(str(folders / "large"), tuned, base, quiet=True)
        small = [member.model for member in loaded.members[1:]]
        assert small[0] is small[1] is small[2], "the weights are in memory once"
        assert torch.equal(loaded.generate(ids, **options), expected)
    again = EmulatedModel(models[0], small[0], method=m.Interpolate({"a": 0.5, "b": 0.5}))
    assert torch.equal(again.generate(ids, **options), expected)
    mixed = EmulatedModel.from_pretrained(
        str(folders / "large"), {"a": tuned["a"], "b": str(folders / "other")}, str(folders / "base"), quiet=True
    )
    whole = EmulatedModel(models[0], {"a": a, "b": models[1]}, models[2])
    assert torch.equal(mixed.generate(ids, **options), whole.generate(ids, **options))


def test_realignment_with_an_adapter(folders, models):
    loaded = EmulatedModel.from_pretrained(
        reference=str(folders / "base"), aligned=str(folders / "one"), method=m.Realign(0.5), quiet=True
    )
    assert loaded.members[0].model is loaded.members[1].model
    expected = EmulatedModel(reference=models[2], aligned=merged(folders, "one"), method=m.Realign(0.5))
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    assert torch.equal(loaded.generate([[5, 6]], **options), expected.generate([[5, 6]], **options))


def test_the_model_under_an_adapter_in_another_place(folders, models):
    """Large equal to base, or a behaviour that is the base: none of them sees the adapter."""
    base, one = str(folders / "base"), str(folders / "one")
    tuned = merged(folders, "one")
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    expected = tuned.generate(torch.tensor([[5, 6]]), **options)
    for given in (base, None):
        loaded = EmulatedModel.from_pretrained(base, one, given, quiet=True)
        assert torch.equal(loaded.generate([[5, 6]], **options), expected)
    peft_model = loaded.members[1].model
    inside = peft_model.get_base_model()
    assert torch.equal(EmulatedModel(inside, peft_model).generate([[5, 6]], **options), expected)
    shares = m.Interpolate({"a": 0.5, "b": 0.5})
    whole = EmulatedModel(models[0], {"a": tuned, "b": models[2]}, models[2], method=shares)
    expected = whole.generate([[5, 6]], **options)
    both = EmulatedModel.from_pretrained(str(folders / "large"), {"a": one, "b": base}, base, method=shares, quiet=True)
    assert torch.equal(both.generate([[5, 6]], **options), expected)
    again = EmulatedModel(models[0], {"a": peft_model, "b": inside}, method=shares)
    assert torch.equal(again.generate([[5, 6]], **options), expected)


def test_adapters_that_cannot_be_told_apart(folders, models):
    base = copy.deepcopy(models[2])
    first = with_adapters(base, ["one"])
    second = with_adapters(base, ["two"])
    with pytest.raises(ValueError, match=r"^b: expected an adapter of a's PEFT model .* over the base of a"):
        EmulatedModel(models[0], {"a": first, "b": second}, base)
    with pytest.raises(ValueError, match=r"^aligned: expected a whole model, since the loop runs reference"):
        EFTLogitsProcessor(aligned=first, method=m.Realign())


def test_loading_by_the_names_of_a_method(folders, models):
    large, base = str(folders / "large"), str(folders / "base")
    contrast = EmulatedModel.from_pretrained(
        expert=large, amateur=base, method=m.Contrast(), quiet=True, dtype={"expert": "float32", "amateur": "bfloat16"}
    )
    assert contrast.models["amateur"].dtype == torch.bfloat16
    guided = EmulatedModel.from_pretrained(model=large, method=m.Guidance(), quiet=True)
    assert guided.models["conditional"] is guided.models["unconditional"], "loaded once"
    text = guided.generate_text("hello", prompts={"unconditional": "bye"}, max_new_tokens=4)
    assert text == EmulatedModel(model=models[0], tokenizer=guided.tokenizer, method=m.Guidance()).generate_text(
        "hello", prompts={"unconditional": "bye"}, max_new_tokens=4
    )
    plain = EmulatedModel.from_pretrained(model=large, method=m.Plain(), quiet=True)
    assert plain.generate([[5]], max_new_tokens=2).shape == (1, 3)


WRONG_MODELS = {
    "base: expected a model, got None": dict(large=0, tuned={"a": 1, "b": 3}),
    "b: expected a model, got None": dict(large=0, tuned={"a": 1, "b": None}, base=2),
    "behaviours: expected 1 to 2 of them, got 0": dict(large=0, tuned={}, base=2),
    "c: not a model of Interpolate(a=1)": dict(large=0, tuned={"c": 1}, base=2, method=m.Interpolate({"a": 1})),
    "amateur: expected a model, got None": dict(expert=0, method=m.Contrast()),
    "expert: not a model of UpScale(beta=1), which has large, tuned": dict(expert=0, amateur=1),
    "large: not a model of Realign(share=1)": dict(large=0, tuned=1, base=2, method=m.Realign()),
    "beta: expected nothing beside method=UpScale": dict(large=0, tuned=1, base=2, method=m.UpScale(), beta=1),
    "beta: belongs to large, tuned and base, and this model's method is Interpolate(a=1)": dict(
        large=0, tuned={"a": 1}, base=2, beta=0.5
    ),
}


@pytest.mark.parametrize("message", WRONG_MODELS)
def test_models_that_do_not_fit(models, message):
    """Whole numbers but for beta's are places among the models."""

    def placed(name, value):
        if isinstance(value, dict):
            return {key: placed(key, one) for key, one in value.items()}
        return models[value] if isinstance(value, int) and name != "beta" else value

    with pytest.raises((ValueError, TypeError), match="^" + re.escape(message)):
        EmulatedModel(**{name: placed(name, value) for name, value in WRONG_MODELS[message].items()})


def test_calls_that_do_not_fit(models):
    large, a, base, b = models
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    for options, message in (
        (dict(method="up"), "method: expected one of eft_ext.methods, got 'up'"),
        (dict(beta=0.5), "beta: belongs to large, tuned and base"),
        (dict(method=m.UpScale()), "method: expected one of large, a, b, base, the models that are here, got UpScale"),
        (dict(prompts={"c": [[1]]}), "prompts: expected the keys large, a, b, base, tuned, got 'c'"),
        (dict(method=m.Interpolate({"a": [1.0, 2.0], "b": 0.0})), "a: expected a number or 1 values, one per row"),
        (dict(method=m.Interpolate({"a": lambda step: "x", "b": 0.0})), "a of step 0: expected a finite number"),
    ):
        with pytest.raises((ValueError, TypeError), match="^" + re.escape(message)):
            model.generate([[5, 6]], max_new_tokens=2, **options)
    with pytest.raises(ValueError, match=r"^conditional: not a model of Plain"):
        EmulatedModel(conditional=large, model=large, method=m.Plain())
    with pytest.raises(ValueError, match=r"^expert: expected a hub id or a folder, got None"):
        EmulatedModel.from_pretrained(amateur="x", method=m.Contrast())
    with pytest.raises(ValueError, match=r"^tuned: not a model of Contrast"):
        EmulatedModel.from_pretrained(tuned="x", expert="y", amateur="x", method=m.Contrast())


def test_what_the_mixture_says_to_who_launches_a_step_itself():
    mixture = Mixture.choose(Mixture(), scale=[1.0, 2.0], conservative_top_p=0.9).per_row(4, 2)
    assert [w.tolist() if isinstance(w, torch.Tensor) else w for w in mixture.weights] == [
        [1.0, 1.0, 2.0, 2.0],
        1.0,
        [-1.0, -1.0, -2.0, -2.0],
    ]
    assert mixture.conservative.top_p == pytest.approx(0.9)
    assert mixture.conservative.set == "tuned"
    assert mixture.keep(torch.tensor([1, 2])).weights[0].tolist() == [1.0, 2.0]
    assert mixture.at(7) is mixture, "nothing changed"
    mixture.method.set(scale=[3.0, 4.0])
    assert mixture.keep(torch.tensor([1, 2])).at(7).weights[0].tolist() == [3.0, 4.0]
    assert Mixture().weights == (1.0, 1.0, -1.0)
    assert Mixture().conservative is None
