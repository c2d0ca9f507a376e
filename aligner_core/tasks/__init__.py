"""Stages that weak-to-strong and IDA share. These modules import nothing heavy until a task runs."""
