"""Data room: sources, scaling, splits and batches. It knows nothing of the network.

examples.py    Examples and Source: what every source gives, and how it is asked
sources.py     data shipped with scikit-learn, generated data, truth tables of Boolean functions
idx.py         MNIST and Fashion-MNIST
tables.py      the user's own CSV and Parquet files, and which columns are features or target
arrays.py      the user's own .npz file or pair of .npy files
checks.py      what a file and a feature must be: readable, smaller than the memory; finite
targets.py     labels to class indices or output rows
scaling.py     offset and divisor of each feature, from the training split alone
splits.py      splits: drawn stratified or as the source fixes them; scaled rows by index
batches.py     which examples each update sees, on each device
module.py      the LightningDataModule that holds a source
"""
