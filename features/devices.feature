Feature: Multiple devices
  Layers are split across devices by shares. Here two CPU sessions stand for two devices.

  Scenario: a model split across two devices generates the same texts as on one device
    Given sixteen prompts
    When each prompt is completed alone
    Given a server with its layers split across two devices
    When I request the props
    Then the response's "device" is "cpu, cpu"
    And the response's "deterministic" is true
    When all prompts are completed concurrently
    Then the concurrent texts equal the texts completed alone
    When all prompts are completed concurrently with the prompt cache
    Then the concurrent texts equal the texts completed alone
