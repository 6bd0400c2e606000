"""Data made ready for the experiments: `sparsepo prepare NAME`, from public sets to a folder that runs train on."""
