"""What every loaded engine offers, its inputs and adapters. Imports manifest, storage, errors."""
