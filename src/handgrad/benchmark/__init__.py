"""How long an update takes, here and elsewhere: same data, same batches, same first weights."""
