"""Engine and codec in a process of their own, so that frames never wait for the server's Python.

``parent.py`` is the server's side and never imports torch; ``child.py`` is the program of the other process, in
which the models are loaded. They talk through one socket (``messages.py``); sound goes through memory that both
see (``sound.py``). docs/decisions/0004-engine-process.md says why.
"""
