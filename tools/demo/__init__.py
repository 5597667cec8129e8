"""The demo: ``make demo``, ``make demo-down``, ``make demo-local``.

``on_host`` boots a throw-away host and rolls the service out to it; ``local`` does the same job without a
host, where namespaces are not allowed. ``speech`` asks for speech as a user would and measures what came
back; ``steps`` prints what happens and how long it took. Standard library only.
"""
