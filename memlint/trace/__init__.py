"""What memory did: one stream of allocations and frees, wherever it was recorded.

Readers (:mod:`~memlint.trace.snapshot` for CUDA memory snapshots, :mod:`~memlint.trace.kineto` for profiler traces;
:func:`memlint.trace.reading.read_trace` chooses) turn a file into a :class:`~memlint.trace.events.Recording`.
:mod:`~memlint.trace.allocator` turns requested sizes into allocated and reserved bytes, as the CUDA caching
allocator would. Nothing here needs a source file, and nothing imports torch before a recorder starts.
"""
