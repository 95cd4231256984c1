"""The commands of ``pmaps``, a module each; what is heavy is imported when one runs.

Each has ``HELP`` for the list of commands, ``DESCRIPTION`` for its own help, ``arguments(parser)``
and ``run(args)``, which gives the exit status.  Trouble is raised as :mod:`..errors` has it.
"""
