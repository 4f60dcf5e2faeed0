"""Methods that vLLM adds to its workers (`worker_extension_cls`): what the scheduler did, and faults on demand.

Runs in the worker's process; its methods are called over RPC.
"""

from collections import Counter
from typing import Any

from torch._dynamo.utils import get_compilation_metrics
from vllm.v1.outputs import ModelRunnerOutput


class Witness:
    """Counts what the tests must prove to have happened."""

    def witness_watch(self) -> None:
        """Begin to count, from nothing."""
        worker: Any = self
        runner = worker.model_runner
        self.witness_counts: Counter[str] = Counter()
        if hasattr(self, "witness_watches"):
            return
        self.witness_watches = True
        execute, sample = runner.execute_model, runner.sample_tokens

        def execute_model(scheduler_output: Any, *args: Any, **options: Any) -> Any:
            fed = scheduler_output.num_scheduled_tokens
            cached = scheduler_output.scheduled_cached_reqs
            counts = self.witness_counts
            counts["steps"] += 1
            counts["most_rows"] = max(counts["most_rows"], sum(fed.values()))
            counts["most_requests"] = max(counts["most_requests"], len(fed))
            counts["preempted"] += len(scheduler_output.preempted_req_ids or ())
            counts["resumed"] += len(cached.resumed_req_ids)
            counts["chunks"] += sum(
                request.num_computed_tokens + fed[request.req_id] < len(request.prompt_token_ids)
                for request in scheduler_output.scheduled_new_reqs
            )
            counts["drafted"] += sum(map(len, scheduler_output.scheduled_spec_decode_tokens.values()))
            return execute(scheduler_output, *args, **options)

        def sample_tokens(*args: Any, **options: Any) -> Any:
            made = sample(*args, **options)
            if isinstance(made, ModelRunnerOutput):  # under asynchronous scheduling, without drafts, it is a promise
                self.witness_counts["accepted"] += sum(max(len(ids) - 1, 0) for ids in made.sampled_token_ids)
            return made

        runner.execute_model, runner.sample_tokens = execute_model, sample_tokens

    def witness_counted(self) -> dict[str, int]:
        """What was counted."""
        return dict(self.witness_counts)

    def witness_untap(self, name: str) -> None:
        """Take the tap off one module, as a vLLM that replaced the module's forward would."""
        worker: Any = self
        module = worker.model_runner.model.get_submodule(name)
        self.witness_kept = module, module.forward
        del module.forward

    def witness_retap(self) -> None:
        """Put it back."""
        module, module.forward = self.witness_kept

    def witness_compiled(self) -> dict[str, Any]:
        """How vLLM compiles the model, and each frame that torch has compiled for it in this process until now.

        vLLM's samplers compile helpers of their own, again for a new number of rows: those do not count.
        """
        worker: Any = self
        mode = worker.vllm_config.compilation_config.mode.name
        frames = [f"{frame.co_filename}:{frame.co_name}" for frame in get_compilation_metrics()]
        return {"mode": mode, "frames": [frame for frame in frames if "/vllm/v1/sample/" not in frame]}

    def witness_scale(self, alpha: float, bank: int) -> None:
        """Write an alpha that nobody asked for into the row buffers; a compiled graph scales by what it finds there."""
        worker: Any = self
        worker.hguard_buffers[0].alpha.fill_(alpha)
        worker.hguard_buffers[0].bank.fill_(bank)

    def witness_runner(self) -> str:
        """Name of the model runner's class."""
        worker: Any = self
        return type(worker.model_runner).__name__

    def witness_fail(self) -> None:
        """The next pass fails."""
        worker: Any = self

        def execute_model(*_args: Any, **_options: Any) -> Any:
            raise RuntimeError("a broken pass")

        worker.model_runner.execute_model = execute_model
