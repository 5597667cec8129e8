"""Throw-away test hosts with a real systemd: no container engine, no systemd needed on the build machine.

``python3 -m rig`` in the directory ``molecule`` is the command line. Read in this order:

``capabilities``  what the build machine must allow, and what to say when it does not
``image``         Debian base images, built once per recipe and cached
``record``        what is known about a host: a directory with one JSON file
``network``       a network namespace per host, a veth pair to reach it, slirp4netns for the way out
``cgroup``        a cgroup per host, from systemd where it runs, else made by hand
``supervisor``    the one process that owns a running host and takes it down in order
``host``          up and down, as the command line and the demo call them

The files ``vm_*`` are the other kind of host: a virtual machine with its own kernel and boot loader.
Standard library only: the rig runs before anything is installed.
"""
