"""The SCSI command set of a volume (SPC-4, SBC-3) as pure functions: a CDB in, a plan out."""
