"""The CustomResourceDefinition, from the same models that `gapo run` validates with."""
