"""The structures of csrc/include/eft.h for ctypes, and what the native module takes as tuples made into them."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_int64, c_uint64, c_void_p

from eft_ext.ops import Score

MAX_MODELS = 4


class Logits(Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32)]


class Real(Structure):
    _fields_ = [("rows", c_void_p), ("stride", c_int64), ("value", c_float)]


class Integer(Structure):
    _fields_ = [("rows", c_void_p), ("value", c_int64)]


class Details(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("logprobs", "raw_logprobs", "model_logprobs", "entropy", "num_kept")),
        *((name, c_void_p) for name in ("top_ids", "top_logprobs", "status")),
        ("num_top", c_int32),
    ]


class SpecialTokens(Structure):
    _fields_ = [("tiles", c_void_p), ("masks", c_void_p), ("owner", c_int32)]


class Step(Structure):
    """`eft_step` of csrc/include/eft.h, field by field."""

    _fields_ = [
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("num_models", c_int32),
        ("logits", Logits * MAX_MODELS),
        ("weights", Real * MAX_MODELS),
        ("temperature", Real),
        ("top_k", Integer),
        ("top_p", Real),
        ("min_p", Real),
        ("conservative", c_int32),
        ("conservative_drop", c_int32),
        ("conservative_top_p", Real),
        ("bias", c_void_p),
        ("bias_row_stride", c_int64),
        ("token_bitmask", c_void_p),
        ("token_bitmask_row_stride", c_int64),
        ("special", SpecialTokens),
        ("seed", Integer),
        ("position", Integer),
        ("tokens", c_void_p),
        ("details", Details),
    ]


class ScoreStats(Structure):
    _fields_ = [
        *((name, c_void_p) for name in Score._fields),
        ("num_top", c_int32),
        ("num_changed", c_int32),
    ]


class ScoreCall(Structure):
    """`eft_score` of csrc/include/eft.h, field by field."""

    _fields_ = [
        ("mixture", Step),
        ("targets", c_void_p),
        ("ignore_index", c_int64),
        ("compared", c_int32),
        ("stats", ScoreStats),
    ]


class How(Structure):
    """`eft_host_launch` of csrc/emulator/kernels/step_on_host.h."""

    _fields_ = [("seed", c_uint64), ("kernel", c_int32), ("blocks", c_int32), ("bf16_kernel", c_int32)]


class Verify(Structure):
    """`eft_verify` of csrc/include/eft.h, field by field."""

    _fields_ = [
        ("step", Step),
        ("logits_position_stride", c_int64 * MAX_MODELS),
        ("token_bitmask_position_stride", c_int64),
        ("num_drafts", c_int32),
        ("drafts", c_void_p),
        ("lengths", Integer),
        ("draft_logits", Logits),
        ("draft_position_stride", c_int64),
        ("draft_temperature", Real),
        ("draft_top_k", Integer),
        ("draft_top_p", Real),
        ("draft_min_p", Real),
        ("tokens", c_void_p),
        ("num_accepted", c_void_p),
        ("status", c_void_p),
    ]


def real(option: tuple[float, int, int]) -> Real:
    return Real(option[1], option[2], option[0])


def integer(option: tuple[int, int]) -> Integer:
    return Integer(option[1], option[0])
