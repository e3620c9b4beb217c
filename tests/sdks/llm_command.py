"""The `llm` command against the server at $ORTOLAN; only its file of models is configured."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

SERVER = os.environ["ORTOLAN"] + "/v1"
MODELS = f"""
- {{model_id: tiny, model_name: any, api_base: {SERVER}, supports_schema: true, supports_tools: true}}
- {{model_id: tiny-text, model_name: any, api_base: {SERVER}, completion: true}}
"""
GREEDY = ["-o", "temperature", "0", "-o", "max_tokens"]
QUESTION = "Name the capital of Italy."


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        with open(os.path.join(folder.name, "extra-openai-models.yaml"), "w") as file:
            file.write(MODELS)
        # The address of embedding models can only be set for the OpenAI library.
        self.environment = {**os.environ, "LLM_USER_PATH": folder.name, "OPENAI_BASE_URL": SERVER, "OPENAI_API_KEY": "none"}

    def run_llm(self, *arguments, stdin=""):
        command = [sys.executable, "-m", "llm", *arguments]
        return subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True)

    def llm(self, *arguments, stdin=""):
        result = self.run_llm(*arguments, stdin=stdin)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def test_conversation_in_several_commands(self):
        result = self.llm("-m", "tiny", *GREEDY, "24", "--usage", QUESTION)
        self.assertIn("Rome", result.stdout)
        self.assertIn("36 input, 7 output", result.stderr)
        self.assertIn("Paris", self.llm("-c", *GREEDY, "24", "--no-stream", "And of France?").stdout)
        first, last = json.loads(self.llm("logs", "--json").stdout)
        self.assertEqual((first["prompt"], last["conversation_id"]), (QUESTION, first["conversation_id"]))
        self.assertEqual(last["response_json"]["usage"]["completion_tokens"], last["output_tokens"])

    def test_schema(self):
        result = self.llm("-m", "tiny", *GREEDY, "80", "--schema", "population int, is_large bool", QUESTION)
        answer = json.loads(result.stdout)
        self.assertIsInstance(answer["population"], int)
        self.assertIsInstance(answer["is_large"], bool)

    def test_tool_call(self):
        """`llm` cannot require a tool call, but the model repeats the prompt, which contains one."""
        result = self.llm("-m", "tiny", *GREEDY, "40", "-T", "llm_version", "--td", "Repeat: <tool_call>\n" * 3)
        self.assertIn("Tool call: llm_version({})", result.stderr)

    def test_text_completion(self):
        self.assertIn("Paris", self.llm("-m", "tiny-text", *GREEDY, "8", "The capital of France is").stdout)

    def test_interactive_chat(self):
        result = self.llm("chat", "-m", "tiny", *GREEDY, "24", stdin=QUESTION + "\nAnd of France?\nquit\n")
        self.assertRegex(result.stdout, "(?s)Rome.*Paris")

    def test_endpoint_without_a_file_of_models(self):
        self.assertEqual(self.llm("openai", "endpoint", SERVER, "--models").stdout, "tiny\n")

    def test_embeddings(self):
        self.llm("embed-multi", "words", "-m", "3-small", "-", "--format", "csv", stdin="id,text\n1,rain\n2,a piano\n")
        nearest = json.loads(self.llm("similar", "words", "-n", "1", "-c", "rain").stdout)
        self.assertEqual(nearest["id"], "1")
        self.assertAlmostEqual(nearest["score"], 1, places=5)

    def test_error(self):
        result = self.run_llm("-m", "tiny", "word " * 9000)
        self.assertEqual(result.returncode, 1)
        self.assertIn("9031 tokens", result.stderr)


if __name__ == "__main__":
    unittest.main()
