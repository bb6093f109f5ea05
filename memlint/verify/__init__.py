"""Runs a script briefly, watches the lines that have findings, and decides what each finding is worth.

Two processes take part. The *parent* (:mod:`~memlint.verify.static`, :mod:`~memlint.verify.launch`,
:mod:`~memlint.verify.decide`) checks the sources and decides; it imports no torch. The *child*
(:mod:`memlint.verify.child`) runs the script and records; it imports nothing that a check needs. They talk through
files: a :class:`~memlint.verify.plan.Plan` goes in, :class:`~memlint.verify.observations.Observations` and a memory
snapshot come out.
"""
