"""Old names of methods and their attributes: they work, and say what they are called now."""

import pytest

from eft_ext import methods as m

RENAMED = {"foundation": "adapter_base", "alone": "last_token_only", "varies": "is_scheduled"}


def test_named_is_mixing_method():
    with pytest.warns(
        DeprecationWarning, match="^Named: now MixingMethod; the old name works until version 0.2"
    ) as said:
        from eft_ext.methods import Named
    assert Named is m.MixingMethod
    assert {each.filename for each in said} == {__file__}
    assert "Named" not in m.__all__
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        m.Other  # noqa: B018


@pytest.mark.parametrize("old", RENAMED)
@pytest.mark.parametrize("method", [m.UpScale(), m.UpScale(lambda step: 1.0 / (1 + step)), m.Guidance()])
def test_reading(method, old):
    for holder in (method, type(method)):
        with pytest.warns(DeprecationWarning, match=f"^{old}: now {RENAMED[old]}") as said:
            assert getattr(holder, old) == getattr(holder, RENAMED[old])
        assert said[0].filename == __file__


def test_subclass():
    """The package reads under the new names what a class, or one that it inherits from, sets under the old ones."""
    with pytest.warns(DeprecationWarning, match="; the old name works until version 0.2") as said:

        class Own(m.MixingMethod):
            roles = ends = ("one", "other")
            foundation = "one"
            alone = ("other",)

            @property
            def varies(self):
                return True

            def weights(self):
                return 1.0, 0.0

    assert [str(each.message).split(";")[0] for each in said] == [f"{old}: now {new}" for old, new in RENAMED.items()]
    assert {each.filename for each in said} == {__file__}

    class Inherits(Own):
        pass

    for kind in (Own, Inherits):
        assert (kind().adapter_base, kind().last_token_only, kind().is_scheduled) == ("one", ("other",), True)
        with pytest.warns(DeprecationWarning, match="^foundation: now adapter_base"):
            assert kind.foundation == "one"
    assert m.MixingMethod.adapter_base is None
    assert m.MixingMethod.last_token_only == ()


def test_both_names():
    """One class for two versions of the package: the new name counts."""
    with pytest.warns(DeprecationWarning, match="^foundation: now adapter_base"):

        class Both(m.Plain):
            foundation = "old"
            adapter_base = "new"

    assert Both().adapter_base == "new"


def test_mixed_in():
    class Sized:
        alone = ("model",)

    with pytest.warns(DeprecationWarning, match="^alone: now last_token_only"):

        class Own(Sized, m.Plain):
            pass

    assert Own().last_token_only == ("model",)


def test_instance():
    method = m.Plain()
    with pytest.warns(DeprecationWarning, match="^alone: now last_token_only") as said:
        method.alone = ("model",)
    assert method.last_token_only == ("model",)
    assert said[0].filename == __file__


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_super_reads_what_stands_behind():
    """An override of an old name may build on the one before it, through two classes."""

    class Once(m.UpScale):
        seen = 0

        @property
        def varies(self):
            self.seen += 1
            return super().varies or self.seen > 2

    class Twice(Once):
        @property
        def varies(self):
            return not super().varies

    assert [Once().is_scheduled, Twice().is_scheduled] == [False, True]
    method = Once()
    assert [method.varies for _ in range(3)] == [False, False, True]
    assert Once(lambda step: 1.0).is_scheduled
