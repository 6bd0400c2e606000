"""Code that a model wrote, run where it can do no harm: one process, no network, no writes outside its folder.

Three mechanisms of Linux that need no privilege, and that hold for root as well because its capabilities are dropped:

- seccomp (`seccomp.py`): a list of the system calls that remain. There is none left that makes a process, a socket or a
  signal for somebody else, so that fork bombs, processes left behind and connections cannot begin. Namespaces are
  not used: many clusters and containers forbid them, and nothing would be left for them to do.
- Landlock (`landlock.py`): which files can be opened. Writable is the empty working folder; readable are Python and
  the system's libraries, and so neither home folders nor other processes' environments.
- resource limits (`child.py`) of CPU time, memory and file size, and the parent's watch (`box.py`) over wall time and
  the size of the folder. RLIMIT_NPROC is left alone: it counts all of a user's threads, and does not bind root.

Where one is missing nothing is run (`self_test.py`).
"""
