"""Read what others have packed: WebDataset tars, Arrow and Parquet of Hugging Face."""
