"""Fine-tuning VideoMAE on the VCE and V2V datasets."""
