"""Speed: the paper's prefill/decode protocol, methods interleaved in one process."""
