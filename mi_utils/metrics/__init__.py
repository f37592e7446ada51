"""Measures of reconstructions: pure functions of logits, images or feature matrices.

Nothing here trains a network or touches a file; nothing here knows an attack.
"""
