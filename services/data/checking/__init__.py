"""Every row of data files looked at before a job does: what is wrong, what each source holds, what is there twice."""
