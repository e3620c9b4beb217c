Feature: Exported ONNX models
  A two-layer model with random weights, as onnxruntime-genai and optimum export it.

  Scenario Outline: a model exported by <tool> uses <attention> attention, and batching does not change its texts
    Given a server with a model exported by <tool>
    When I request the props
    Then the status is 200
    And the response's "attention" is "<attention>"
    And the response's "deterministic" is true
    And the response's "chat_template" contains "im_start"
    Given sixteen prompts
    When each prompt is completed alone
    And all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone
    When all prompts are completed concurrently with the prompt cache
    Then the concurrent texts equal the texts completed alone
    When all prompts are streamed concurrently
    Then the concurrent texts equal the texts completed alone

    Examples:
      | tool              | attention    |
      | onnxruntime-genai | paged        |
      | optimum           | past_present |

  Scenario Outline: a model exported by <tool> serves chat completions and embeddings
    Given a server with a model exported by <tool>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
      """
    Then the status is 200
    And the response's "choices.0.message.role" is "assistant"
    When I request embeddings:
      """
      {"content": "It stood"}
      """
    Then the response's "embedding" has 64 entries
    And the embedding's norm is 1

    Examples:
      | tool              |
      | onnxruntime-genai |
      | optimum           |
