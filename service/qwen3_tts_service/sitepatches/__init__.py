"""The on-disk patches and the patcher; standard library only, so that it runs from outside the environment.

``patches/`` is the data, ``patchset.py`` reads it; ``plan.py`` compares it with an environment,
``patcher.py`` applies, reverts and checks; ``lock.py`` works out hashes for builds that the data does not
name.
"""
