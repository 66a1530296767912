"""The errors a user of klmap can meet, and what each of them means for the job.

A message names the place, what was found there, and what to do about it.
"""

from __future__ import annotations


class KlmapError(Exception):
    """An error whose message is meant for the user: shown without a traceback."""


class ConfigError(KlmapError):
    """The configuration is wrong; the message holds one line per problem."""


class InputError(KlmapError):
    """A file or folder handed to klmap is missing, broken or of another kind."""


class PermanentFailure(KlmapError):
    """This model can never be scored as configured: trying again would end the same way.

    Examples: no weights, not a causal language model, non-finite results, a tokenizer that
    fails. With ``on_model_failure: skip`` the map is drawn without the model.

    Args:
        message: what was found, where, and the fix.
        state: the kind of failure in a word or two, as pre-flight's table shows it: ``needs a
            token``, ``not a causal LM``, ``of another kind`` (of likelihood), ``gone``,
            ``needs remote code``, ``too large`` or ``unusable``.
    """

    def __init__(self, message: str, state: str = "unusable") -> None:
        super().__init__(message)
        self.state = state


class UnsupportedHere(PermanentFailure):
    """This machine or this version of klmap cannot score the model as configured.

    Ends the job like any permanent failure, but another machine or version may succeed, so no
    record of it is left for later attempts.
    """
