"""The stages: each a function RunConfig -> StageSummary, called alike from Python, the command line and the flow.

A stage pins the table versions that it reads, does nothing when its digest is already committed, and commits once.
"""
