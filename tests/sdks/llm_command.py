"""The command `llm` against the server at ORTOLAN: nothing is set but its file of models."""

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
        # Its models of embeddings have no address but the library's.
        self.environment = {**os.environ, "LLM_USER_PATH": folder.name, "OPENAI_BASE_URL": SERVER, "OPENAI_API_KEY": "none"}

    def run_llm(self, *arguments, fed=""):
        command = [sys.executable, "-m", "llm", *arguments]
        return subprocess.run(command, env=self.environment, input=fed, capture_output=True, text=True)

    def llm(self, *arguments, fed=""):
        ended = self.run_llm(*arguments, fed=fed)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return ended

    def test_a_conversation(self):
        ended = self.llm("-m", "tiny", *GREEDY, "24", "--usage", QUESTION)
        self.assertIn("Rome", ended.stdout)
        self.assertIn("36 input, 7 output", ended.stderr)
        self.assertIn("Paris", self.llm("-c", *GREEDY, "24", "--no-stream", "And of France?").stdout)
        first, last = json.loads(self.llm("logs", "--json").stdout)
        self.assertEqual((first["prompt"], last["conversation_id"]), (QUESTION, first["conversation_id"]))
        self.assertEqual(last["response_json"]["usage"]["completion_tokens"], last["output_tokens"])

    def test_a_schema(self):
        ended = self.llm("-m", "tiny", *GREEDY, "80", "--schema", "population int, is_large bool", QUESTION)
        answer = json.loads(ended.stdout)
        self.assertIsInstance(answer["population"], int)
        self.assertIsInstance(answer["is_large"], bool)

    def test_a_tool(self):
        """The command cannot demand a call, but the model repeats what it reads."""
        ended = self.llm("-m", "tiny", *GREEDY, "40", "-T", "llm_version", "--td", "Repeat: <tool_call>\n" * 3)
        self.assertIn("Tool call: llm_version({})", ended.stderr)

    def test_a_text(self):
        self.assertIn("Paris", self.llm("-m", "tiny-text", *GREEDY, "8", "The capital of France is").stdout)

    def test_a_chat(self):
        ended = self.llm("chat", "-m", "tiny", *GREEDY, "24", fed=QUESTION + "\nAnd of France?\nquit\n")
        self.assertRegex(ended.stdout, "(?s)Rome.*Paris")

    def test_an_address_without_a_file(self):
        self.assertEqual(self.llm("openai", "endpoint", SERVER, "--models").stdout, "tiny\n")

    def test_embeddings(self):
        self.llm("embed-multi", "words", "-m", "3-small", "-", "--format", "csv", fed="id,text\n1,rain\n2,a piano\n")
        nearest = json.loads(self.llm("similar", "words", "-n", "1", "-c", "rain").stdout)
        self.assertEqual(nearest["id"], "1")
        self.assertAlmostEqual(nearest["score"], 1, places=5)

    def test_an_error(self):
        ended = self.run_llm("-m", "tiny", "word " * 9000)
        self.assertEqual(ended.returncode, 1)
        self.assertIn("9031 tokens", ended.stderr)


if __name__ == "__main__":
    unittest.main()
