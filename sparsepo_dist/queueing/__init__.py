"""Jobs: commands that run at most once each, here by a queue over devices or as Slurm's, whatever is killed meanwhile.

A job is a folder with a lock that its living processes hold, a state and a log. Whoever holds the lock runs the job;
all others look at the state. So nothing has to be told, and whatever is killed leaves nothing behind but its log.
"""
