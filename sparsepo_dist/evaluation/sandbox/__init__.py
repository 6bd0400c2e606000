"""Code that a model wrote, run where it can do no harm and cannot mark itself.

Two processes: one runs the program (`program.py`); its parent, forked before it knows them, runs the tests (`child.py`)
and asks the other for what the program's functions answer (`proxies.py`, `wire.py`). So no test, expectation or channel
of the verdict is within the program's reach, whatever it does to its interpreter.

Four mechanisms of Linux that need no privilege, and that hold for root as well because its capabilities are dropped:

- seccomp (`seccomp.py`): a list of the system calls that remain. There is none left that makes a process, a socket or a
  signal for somebody else, so that fork bombs, processes left behind and connections cannot begin. Namespaces are
  not used: many clusters and containers forbid them, and nothing would be left for them to do.
- Landlock (`landlock.py`): which files can be opened. Writable is the empty working folder; readable are Python and
  the system's libraries, and so neither home folders nor other processes' environments.
- resource limits (`child.py`) of CPU time, memory and the size of a file, and the parent's watch (`box.py`) over wall
  time. RLIMIT_NPROC is left alone: it counts all of a user's threads, and does not bind root.
- seccomp's notifications (`creations.py`): the watcher is asked before a file is made. So many files, each of a limited
  size, are the bound of all, those without a name included.

Where one is missing nothing is run (`self_test.py`).
"""
