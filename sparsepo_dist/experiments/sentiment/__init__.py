"""The paper's sentiment experiment at laptop scale: trained, evaluated, reported."""
