"""Errors whose message is one clear line for the user; anything else that escapes is a bug in dodona."""

from __future__ import annotations


class DodonaError(Exception):
    """A user's mistake or a broken input; the command line prints the message alone and exits non-zero."""


class CheckpointError(DodonaError):
    """A model that cannot be found, read or used; the message names it and says what to do."""


class TriggerError(DodonaError, ValueError):
    """A trigger expression that cannot be used; the message points at the column."""


class RequestError(DodonaError, ValueError):
    """A request with an option out of range, or a prompt that no model here can take."""


class OutOfMemoryError(DodonaError):
    """What was asked for does not fit; the message gives the numbers and the setting that would make it fit."""
