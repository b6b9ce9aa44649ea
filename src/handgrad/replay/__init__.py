"""The replay room: published figures beside ours.

runs.py       the runs of an experiment, each trained by task=train
values.py     what one run gives, from its learning curve or its weights
verdict.py    what the seeds give together, beside the published figure
report.py     the table, results.md, results.csv
picture.py    the learning curves beside the published ones
"""
