"""A run in object storage: keys, records, the commit protocol, claims and retention (docs/contracts/storage.md).

obstore's runtime does not survive a fork: a process that has used a store must not fork a child that uses one.
"""
