from modules.cold_start_sft import ColdStartSFT
from modules.distill_mtp import DistillMTP
from modules.step_srpo import StepSRPO

__all__ = ["ColdStartSFT", "DistillMTP", "StepSRPO"]
