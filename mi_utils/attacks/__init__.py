"""One module per attack: its equations as functions, its algorithm as one stage that returns reconstructions.

An attack's stage stores `images` uint8 (N, C, S, S), `labels` int64 (N,) and its curves as `log_*`.
"""
