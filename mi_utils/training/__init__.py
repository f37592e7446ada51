"""Stages that produce weights."""
