"""FlowBatch to FlowBatch: tables joined to the common columns."""
