from katlit.modules.cold_start_sft import ColdStartSFT
from katlit.modules.distill_mtp import DistillMTP
from katlit.modules.step_srpo import StepSRPO

__all__ = ["ColdStartSFT", "DistillMTP", "StepSRPO"]
