"""Parts of vllm_parity.py and bench_vllm.py, which start vLLM."""
